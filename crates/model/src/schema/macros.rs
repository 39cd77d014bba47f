//! The macros that declare a configuration type once: `object!`, `choice!` and `union!`.
//!
//! Used by `kinds` and by the policies of `engine`. They deliberately hold no logic: all of it is in functions of this module's
//! siblings, so that the code they make stays small.

/// How long `snake` is in camel case. Used at compile time by the macros.
pub const fn camel_length(snake: &str) -> usize {
    let bytes = snake.as_bytes();
    let mut length = 0;
    let mut index = raw_prefix(bytes);
    while index < bytes.len() {
        if bytes[index] != b'_' {
            length += 1;
        }
        index += 1;
    }
    length
}

/// `snake_case` as `snakeCase`; `r#type` as `type`. Used at compile time by the macros; `N` is [`camel_length`].
pub const fn camel<const N: usize>(snake: &str) -> [u8; N] {
    let bytes = snake.as_bytes();
    let mut out = [0; N];
    let mut length = 0;
    let mut index = raw_prefix(bytes);
    let mut raise = false;
    while index < bytes.len() {
        if bytes[index] == b'_' {
            raise = true;
        } else {
            out[length] = if raise { bytes[index].to_ascii_uppercase() } else { bytes[index] };
            raise = false;
            length += 1;
        }
        index += 1;
    }
    out
}

const fn raw_prefix(bytes: &[u8]) -> usize {
    if bytes.len() > 2 && bytes[0] == b'r' && bytes[1] == b'#' { 2 } else { 0 }
}

/// The wire name of a field: its own in camel case, or the one given with `as`.
#[doc(hidden)]
#[macro_export]
macro_rules! wire_name {
    ($field:ident as $wire:literal) => {
        $wire
    };
    ($field:ident) => {{
        const SNAKE: &str = stringify!($field);
        const BYTES: [u8; $crate::schema::camel_length(SNAKE)] = $crate::schema::camel(SNAKE);
        const NAME: &str = match std::str::from_utf8(&BYTES) {
            Ok(name) => name,
            Err(_) => SNAKE,
        };
        NAME
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! presence {
    ($type:ty) => {
        $crate::schema::Presence::<$type>::ByType
    };
    ($type:ty, $default:expr) => {
        $crate::schema::Presence::<$type>::Default(|| $default)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! shown_default {
    ($type:ty) => {
        (<$type as $crate::schema::Schema>::absent().is_none(), None)
    };
    ($type:ty, $default:expr) => {{
        let default: $type = $default;
        let shown =
            Some($crate::schema::Schema::encode(&default)).filter(|_| !$crate::schema::Schema::is_absent(&default));
        (false, shown)
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! ignored_fields {
    () => {
        &[]
    };
    ($ignored:expr) => {
        $ignored
    };
}

/// Declares an object with known fields:
///
/// ```
/// use transept_model::{object, schema::{Rule, Schema}, schema};
///
/// object! {
///     /// A tap.
///     pub struct Tap {
///         /// Its name.
///         name: String => Rule::Length(1, 20);
///         /// How far it is open, in percent.
///         opened_by: u32 = 100 => Rule::Range(0, 100);
///         /// Where it leads.
///         target as "to": Option<String>;
///     }
/// }
/// assert_eq!(Tap::json_schema()["properties"]["openedBy"]["default"], 100);
/// ```
///
/// Field names are written in snake case and are camel case on the wire, unless `as "name"` says otherwise. A field without
/// a default (`= value`) must be written unless its type is an option, a list or a mapping. Rules follow `=>`. The struct
/// also gets a field `at`, the place where it was written. `ignoring NAMES` after the struct's name lets the named keys pass
/// (`&["*"]`: all keys). `check FUNCTION;` after the struct is called as `FUNCTION(&object, &value, &mut decoder)`.
#[macro_export]
macro_rules! object {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident $(ignoring $ignored:expr;)? {
            $(
                $(#[doc = $field_doc:literal])+
                $field:ident $(as $wire:literal)? : $type:ty $(= $default:expr)? $(=> $($rule:expr),+)? ;
            )*
        }
        $(check $check:path;)?
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Hash)]
        pub struct $name {
            /// Where it was written. Never part of equality.
            pub at: $crate::place::Spot,
            $( $(#[doc = $field_doc])+ pub $field: $type, )*
        }

        impl $crate::schema::Schema for $name {
            fn decode(
                value: &$crate::value::Value,
                cx: &mut $crate::schema::Decoder,
            ) -> Option<Self> {
                let [$($field),*] = cx.fields(
                    value,
                    &[$($crate::wire_name!($field $(as $wire)?)),*],
                    $crate::ignored_fields!($($ignored)?),
                )?;
                $(
                    let $field = cx.field::<$type>(
                        $crate::wire_name!($field $(as $wire)?),
                        $field,
                        value.at,
                        $crate::presence!($type $(, $default)?),
                        { const RULES: &[$crate::schema::Rule] = &[$($($rule),+)?]; RULES },
                    );
                )*
                let object = Self { at: value.at, $($field: $field?,)* };
                $( $check(&object, value, cx); )?
                Some(object)
            }

            fn shape() -> $crate::schema::Shape {
                const IGNORED: &[&str] = $crate::ignored_fields!($($ignored)?);
                $crate::schema::Shape::Object($crate::schema::ObjectShape {
                    name: stringify!($name),
                    doc: concat!($($doc, "\n"),+),
                    fields: vec![$({
                        const RULES: &[$crate::schema::Rule] = &[$($($rule),+)?];
                        let (required, default) = $crate::shown_default!($type $(, $default)?);
                        let least_one = |rule: &$crate::schema::Rule| matches!(rule, $crate::schema::Rule::MinItems(1..));
                        $crate::schema::FieldShape {
                            name: $crate::wire_name!($field $(as $wire)?),
                            doc: concat!($($field_doc, "\n"),+),
                            shape: <$type as $crate::schema::Schema>::shape(),
                            required: required || (default.is_none() && RULES.iter().any(least_one)),
                            default,
                            rules: RULES,
                        }
                    }),*],
                    open: IGNORED.contains(&"*"),
                    ignored: IGNORED,
                })
            }

            fn encode(&self) -> serde_json::Value {
                #[allow(unused_mut)]
                let mut map = serde_json::Map::new();
                $(
                    if !$crate::schema::Schema::is_absent(&self.$field) {
                        map.insert(
                            $crate::wire_name!($field $(as $wire)?).to_owned(),
                            $crate::schema::Schema::encode(&self.$field),
                        );
                    }
                )*
                serde_json::Value::Object(map)
            }
        }
    };
}

/// Declares a closed list of words:
///
/// ```
/// transept_model::choice! {
///     /// How a path is compared.
///     pub enum How {
///         /// Byte for byte.
///         Exact = "Exact",
///         /// By its beginning.
///         Prefix = "PathPrefix",
///     }
/// }
/// assert_eq!(How::Prefix.as_str(), "PathPrefix");
/// ```
#[macro_export]
macro_rules! choice {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident {
            $( $(#[doc = $word_doc:literal])+ $variant:ident = $word:literal, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[doc = $word_doc])+ $variant, )+
        }

        impl $name {
            /// Every word of the list, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word as it is written in configuration.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::schema::Schema for $name {
            fn decode(
                value: &$crate::value::Value,
                cx: &mut $crate::schema::Decoder,
            ) -> Option<Self> {
                match cx.word(value, Self::WORDS)? {
                    $( $word => Some(Self::$variant), )+
                    _ => None,
                }
            }

            fn shape() -> $crate::schema::Shape {
                $crate::schema::Shape::Choice(
                    concat!($($doc, "\n"),+),
                    vec![$(($word, concat!($($word_doc, "\n"),+))),+],
                )
            }

            fn encode(&self) -> serde_json::Value {
                self.as_str().into()
            }
        }
    };
}

/// Declares a tagged union, as Gateway API writes filters: one field names the variant, and the field of that variant, and no
/// other, describes it.
///
/// ```
/// transept_model::union! {
///     /// What a name is.
///     pub enum Name by "type" {
///         /// A DNS name.
///         Hostname = "Hostname" / "hostname": String;
///         /// A URI.
///         Uri = "URI" / "uri": String;
///     }
/// }
/// ```
///
/// Each variant is `Variant = "word in the tag field" / "field": Type`, with rules after `=>`.
#[macro_export]
macro_rules! union {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident by $tag:literal {
            $(
                $(#[doc = $variant_doc:literal])+
                $variant:ident = $word:literal / $field:literal : $type:ty $(=> $($rule:expr),+)? ;
            )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Hash)]
        pub enum $name {
            $( $(#[doc = $variant_doc])+ $variant($type), )+
        }

        impl $name {
            /// The words of the tag field, in order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word that names this variant.
            pub const fn word(&self) -> &'static str {
                match self {
                    $( Self::$variant(_) => $word, )+
                }
            }
        }

        impl $crate::schema::Schema for $name {
            fn decode(
                value: &$crate::value::Value,
                cx: &mut $crate::schema::Decoder,
            ) -> Option<Self> {
                let (word, inner) = cx.variant(value, $tag, Self::WORDS, &[$($field),+])?;
                match word {
                    $(
                        $word => cx
                            .field::<$type>(
                                $field,
                                Some(inner),
                                value.at,
                                $crate::schema::Presence::ByType,
                                { const RULES: &[$crate::schema::Rule] = &[$($($rule),+)?]; RULES },
                            )
                            .map(Self::$variant),
                    )+
                    _ => None,
                }
            }

            fn shape() -> $crate::schema::Shape {
                $crate::schema::Shape::Union($crate::schema::UnionShape {
                    name: stringify!($name),
                    doc: concat!($($doc, "\n"),+),
                    tag: $tag,
                    variants: vec![$({
                        const RULES: &[$crate::schema::Rule] = &[$($($rule),+)?];
                        $crate::schema::VariantShape {
                            word: $word,
                            field: $field,
                            doc: concat!($($variant_doc, "\n"),+),
                            shape: <$type as $crate::schema::Schema>::shape(),
                            rules: RULES,
                        }
                    }),+],
                })
            }

            fn encode(&self) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                map.insert($tag.to_owned(), self.word().into());
                match self {
                    $(
                        Self::$variant(inner) => {
                            map.insert($field.to_owned(), $crate::schema::Schema::encode(inner));
                        }
                    )+
                }
                serde_json::Value::Object(map)
            }
        }
    };
}
