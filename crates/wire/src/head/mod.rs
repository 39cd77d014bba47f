//! Message heads: the only message type that the decision engine and its policies see.
//!
//! A head keeps its text in buffers of its own that live as long as it does: [`Request::clear`] and
//! [`Response::clear`] keep the capacity, so a head that is used again and again stops allocating. Fields keep their
//! order and their case; well-known names carry a [`FieldId`], and looking one up costs a bit test when it is absent.
//!
//! Nothing in a head can break the framing of a message: names are tokens, values hold no control bytes, targets hold
//! no space. The codecs check what they read and the setters check what they are given.
//!
//! One truth per fact: the authority of a request is [`Request::authority`], never a `Host` field (the codecs take the
//! field out), and the framing of a body is an argument of the writer, never a field.

mod fields;
mod id;
mod method;
mod name;
mod request;
mod response;

pub use fields::{All, Fields, Iter};
pub(crate) use fields::{Indexing, Span};
pub use id::FieldId;
pub use method::{Method, SmallText, Version};
pub use name::{BadField, BadName, BadValue, FieldName, NameRef};
pub use request::{BadTarget, Request};
pub use response::{Response, standard_reason};
