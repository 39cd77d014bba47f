//! What kinds of values there are, and the variables and functions that expressions know, with the kinds of theirs.
//!
//! Called by `check`, which compares kinds, and by the documentation's test. One table for each, so that "did you mean" knows all names.

use super::facts::Fact;

/// The kind of a value, as far as it is known before a request is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Known only when it is there: what a claim holds.
    Any,
    /// `null`.
    Null,
    /// True or false.
    Bool,
    /// A whole number of 64 bits.
    Int,
    /// A number with a fraction.
    Double,
    /// Text.
    Text,
    /// A time.
    Time,
    /// A length of time.
    Span,
    /// A list.
    List(Plain),
    /// From text to values.
    Map(Plain),
}

/// The kind of what a list or a map holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plain {
    /// Anything, perhaps of several kinds.
    Any,
    /// True or false.
    Bool,
    /// Whole numbers.
    Int,
    /// Text.
    Text,
}

impl Plain {
    pub(super) const fn kind(self) -> Kind {
        match self {
            Plain::Any => Kind::Any,
            Plain::Bool => Kind::Bool,
            Plain::Int => Kind::Int,
            Plain::Text => Kind::Text,
        }
    }

    pub(super) const fn of(kind: Kind) -> Plain {
        match kind {
            Kind::Bool => Plain::Bool,
            Kind::Int => Plain::Int,
            Kind::Text => Plain::Text,
            _ => Plain::Any,
        }
    }
}

impl Kind {
    /// The word for it in messages.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Kind::Any => "a value",
            Kind::Null => "null",
            Kind::Bool => "true or false",
            Kind::Int => "a whole number",
            Kind::Double => "a number",
            Kind::Text => "text",
            Kind::Time => "a time",
            Kind::Span => "a length of time",
            Kind::List(Plain::Text) => "a list of texts",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    pub(super) const fn is_number(self) -> bool {
        matches!(self, Kind::Int | Kind::Double | Kind::Any)
    }

    /// Whether values of both kinds can be equal.
    pub(super) fn meets(self, other: Kind) -> bool {
        match (self, other) {
            (Kind::Any | Kind::Null, _) | (_, Kind::Any | Kind::Null) => true,
            (Kind::Int | Kind::Double, Kind::Int | Kind::Double) => true,
            (Kind::List(a), Kind::List(b)) | (Kind::Map(a), Kind::Map(b)) => a.kind().meets(b.kind()),
            _ => self == other,
        }
    }

    /// Whether a value of this kind may stand where `wanted` is wanted.
    pub(super) fn fits(self, wanted: Kind) -> bool {
        match (self, wanted) {
            (Kind::Null, _) => wanted == Kind::Null || wanted == Kind::Any,
            (Kind::Int, Kind::Double) => true,
            (Kind::Double, Kind::Int) => false,
            _ => self.meets(wanted),
        }
    }
}

/// A field of a variable: its name, what it is, what it holds, and what it says in the documentation.
pub(super) type Known = (&'static str, Fact, Kind);

/// The variables with fields.
pub(super) const RECORDS: &[(&str, &[Known])] = &[
    (
        "request",
        &[
            ("method", Fact::Method, Kind::Text),
            ("path", Fact::Path, Kind::Text),
            ("host", Fact::Host, Kind::Text),
            ("scheme", Fact::Scheme, Kind::Text),
            ("protocol", Fact::Protocol, Kind::Text),
            ("query", Fact::Query, Kind::Map(Plain::Text)),
            ("headers", Fact::Headers, Kind::Map(Plain::Text)),
        ],
    ),
    ("response", &[("status", Fact::Status, Kind::Int), ("headers", Fact::ResponseHeaders, Kind::Map(Plain::Text))]),
    ("source", &[("address", Fact::Address, Kind::Text), ("identity", Fact::Identity, Kind::Text)]),
    ("destination", &[("port", Fact::Port, Kind::Int)]),
    (
        "principal",
        &[
            ("kind", Fact::Kind, Kind::Text),
            ("id", Fact::Id, Kind::Text),
            ("groups", Fact::Groups, Kind::List(Plain::Text)),
            ("scopes", Fact::Scopes, Kind::List(Plain::Text)),
            ("claims", Fact::Claims, Kind::Map(Plain::Any)),
            ("plan", Fact::Plan, Kind::Text),
            ("tenant", Fact::Tenant, Kind::Text),
            ("scheme", Fact::By, Kind::Text),
            ("credential", Fact::Credential, Kind::Text),
        ],
    ),
];

/// The variables without.
pub(super) const VARIABLES: &[Known] = &[("now", Fact::Now, Kind::Time)];

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    StartsWith,
    EndsWith,
    Contains,
    Lower,
    Upper,
    Trim,
    Split,
    Join,
    Size,
    ToText,
    ToInt,
    ToDouble,
    Time,
    Span,
    Hours,
    Minutes,
    DayOfWeek,
    DayOfMonth,
    Month,
    Year,
}

/// A function: its name, what it stands behind, what it takes, what it gives.
pub(super) type Signature = (&'static str, Function, &'static [Kind], Kind);

/// What is written behind a value: `value.name(...)`. The first kind is that of the value.
pub(super) const METHODS: &[Signature] = &[
    ("startsWith", Function::StartsWith, &[Kind::Text, Kind::Text], Kind::Bool),
    ("endsWith", Function::EndsWith, &[Kind::Text, Kind::Text], Kind::Bool),
    ("contains", Function::Contains, &[Kind::Text, Kind::Text], Kind::Bool),
    ("lowerAscii", Function::Lower, &[Kind::Text], Kind::Text),
    ("upperAscii", Function::Upper, &[Kind::Text], Kind::Text),
    ("trim", Function::Trim, &[Kind::Text], Kind::Text),
    ("split", Function::Split, &[Kind::Text, Kind::Text], Kind::List(Plain::Text)),
    ("join", Function::Join, &[Kind::List(Plain::Text), Kind::Text], Kind::Text),
    ("size", Function::Size, &[Kind::Any], Kind::Int),
    ("getHours", Function::Hours, &[Kind::Time], Kind::Int),
    ("getMinutes", Function::Minutes, &[Kind::Time], Kind::Int),
    ("getDayOfWeek", Function::DayOfWeek, &[Kind::Time], Kind::Int),
    ("getDate", Function::DayOfMonth, &[Kind::Time], Kind::Int),
    ("getMonth", Function::Month, &[Kind::Time], Kind::Int),
    ("getFullYear", Function::Year, &[Kind::Time], Kind::Int),
];

/// What is written alone: `name(...)`.
pub(super) const FUNCTIONS: &[Signature] = &[
    ("size", Function::Size, &[Kind::Any], Kind::Int),
    ("string", Function::ToText, &[Kind::Any], Kind::Text),
    ("int", Function::ToInt, &[Kind::Any], Kind::Int),
    ("double", Function::ToDouble, &[Kind::Any], Kind::Double),
    ("timestamp", Function::Time, &[Kind::Text], Kind::Time),
    ("duration", Function::Span, &[Kind::Text], Kind::Span),
];

/// What is written behind a list or a map and takes a name and an expression with it.
pub(super) const WALKS: &[(&str, Walk)] = &[
    ("all", Walk::All),
    ("exists", Walk::Exists),
    ("exists_one", Walk::ExistsOne),
    ("filter", Walk::Filter),
    ("map", Walk::Map),
];

/// What is done with every item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}
