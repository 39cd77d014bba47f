//! Types and names of an expression: from the tree as written to the nodes that are evaluated.
//!
//! Called by `Expression::compile`. What can be wrong before any request is there is refused here: names that do not exist, kinds that do
//! not fit, patterns that are none, and what would take too long.

use regex::{Regex, RegexBuilder};
use transept_model::suggest;
use transept_model::value::ticked;
use transept_wire::head::FieldName;

use super::cost::{BYTES, BYTES_WITHIN, ITEMS, Size, cost};
use super::facts::Fact;
use super::kind::{FUNCTIONS, Function, Kind, METHODS, Plain, RECORDS, Signature, VARIABLES, WALKS, Walk};
use super::parse::{Binary, Form, Tree};
use super::remedy;
use super::value::{Value, span, time};
use super::{Flaw, MOST_DEPTH, MOST_STEPS, Scope};
use crate::policies::Network;

/// The largest compiled pattern, in bytes.
const PATTERN_SIZE: usize = 256 * 1024;

/// A part of an expression, ready to be evaluated.
#[derive(Debug)]
pub(super) struct Node {
    /// Where it begins, in bytes.
    pub at: usize,
    pub kind: Kind,
    pub op: Op,
    /// The most steps that it takes.
    pub steps: u64,
    /// How large its value is at most.
    pub size: Size,
}

#[derive(Debug)]
pub(super) enum Op {
    Constant(Value<'static>),
    Fact(Fact),
    /// Whether a field of a variable holds anything.
    HasFact(Fact),
    Local(usize),
    Header(FieldName),
    HasHeader(FieldName),
    Select(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    Index(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Binary, Box<Node>, Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Choice(Box<Node>, Box<Node>, Box<Node>),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Regex),
    InNetwork(Box<Node>, Network),
    Walk(Walk, Box<Node>, Box<Node>),
}

type Checked = Result<Node, Flaw>;

/// What is known while an expression is checked.
#[derive(Default)]
pub(super) struct Check {
    /// Names given by walks, with the kind and the size of what they stand for.
    locals: Vec<(String, Kind, Size)>,
    depth: usize,
    scope: Scope,
    /// Whether somebody has to find out who makes the request.
    pub asks_principal: bool,
}

impl Node {
    fn new(at: usize, kind: Kind, op: Op) -> Checked {
        let (steps, size) = cost(&op, kind);
        if steps > u64::from(MOST_STEPS) {
            let why = format!(
                "it may take {steps} steps for lists of {ITEMS} items and texts of {BYTES} bytes, of {BYTES_WITHIN} in lists; \
                 the most is {MOST_STEPS}"
            );
            return Err(Flaw::new(at, why).remedy("nest fewer `all`, `exists`, `filter`, `map` and `split`"));
        }
        Ok(Node { at, kind, op, steps, size })
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.op {
            Op::Constant(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn wants(&self, wanted: Kind, whose: &str) -> Result<(), Flaw> {
        if self.kind.fits(wanted) {
            return Ok(());
        }
        let flaw = Flaw::new(self.at, format!("{whose} is {}, not {}", self.kind.as_str(), wanted.as_str()));
        Err(flaw.maybe(remedy::turned(self.kind, wanted).map(str::to_owned)))
    }
}

impl Scope {
    /// Refuses a variable that is not there yet, or is not any more what it was.
    fn knows(self, at: usize, name: &str) -> Result<(), Flaw> {
        match (self, name) {
            (Scope::Request, "response") => Err(Flaw::new(at, "there is no response yet")
                .remedy("ask for `response` where responses are looked at, as in `responseCostExpression`")),
            (Scope::Response, "request") => {
                Err(Flaw::new(at, "filters have changed the request when its response is there")
                    .remedy("ask for `request` where requests are looked at, as in `costExpression`"))
            }
            _ => Ok(()),
        }
    }
}

impl Check {
    /// For what is evaluated where this much is there.
    pub(super) fn new(scope: Scope) -> Check {
        Check { scope, ..Check::default() }
    }

    pub(super) fn node(&mut self, tree: &Tree) -> Checked {
        if self.depth > MOST_DEPTH {
            return Err(Flaw::new(tree.at, format!("it is nested deeper than {MOST_DEPTH} levels"))
                .remedy("make several of it"));
        }
        self.depth += 1;
        let node = self.form(tree);
        self.depth -= 1;
        node
    }

    fn form(&mut self, tree: &Tree) -> Checked {
        let at = tree.at;
        let constant = |kind, value| Node::new(at, kind, Op::Constant(value));
        match &tree.form {
            Form::Null => constant(Kind::Null, Value::Null),
            Form::Bool(value) => constant(Kind::Bool, Value::Bool(*value)),
            Form::Int(value) => constant(Kind::Int, Value::Int(*value)),
            Form::Double(value) => constant(Kind::Double, Value::Double(*value)),
            Form::Text(value) => constant(Kind::Text, Value::Text(value.clone().into())),
            Form::Name(name) => self.name(at, name),
            Form::Select(on, name) => self.select(at, on, name),
            Form::Index(on, index) => self.index(at, on, index),
            Form::Call(None, name, arguments) => self.call(at, name, arguments),
            Form::Call(Some(on), name, arguments) => self.method(at, on, name, arguments),
            Form::Not(inner) => {
                let inner = self.node(inner)?;
                inner.wants(Kind::Bool, "what follows `!`")?;
                Node::new(at, Kind::Bool, Op::Not(Box::new(inner)))
            }
            Form::Negate(inner) => {
                let inner = self.node(inner)?;
                if !inner.kind.is_number() {
                    inner.wants(Kind::Double, "what follows `-`")?;
                }
                Node::new(at, inner.kind, Op::Negate(Box::new(inner)))
            }
            Form::Binary(operator, left, right) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                binary(at, *operator, left, right)
            }
            Form::And(parts) => self.connected(at, parts, "&&", Op::And),
            Form::Or(parts) => self.connected(at, parts, "||", Op::Or),
            Form::Choice(condition, yes, no) => {
                let (condition, yes, no) = (self.node(condition)?, self.node(yes)?, self.node(no)?);
                condition.wants(Kind::Bool, "what stands before `?`")?;
                let kind = if yes.kind == no.kind { yes.kind } else { Kind::Any };
                if !yes.kind.meets(no.kind) {
                    no.wants(yes.kind, "what follows `:`")?;
                }
                Node::new(at, kind, Op::Choice(Box::new(condition), Box::new(yes), Box::new(no)))
            }
            Form::List(items) => self.list(at, items),
            Form::Map(entries) => self.map(at, entries),
        }
    }

    fn nodes(&mut self, trees: &[Tree]) -> Result<Vec<Node>, Flaw> {
        trees.iter().map(|tree| self.node(tree)).collect()
    }

    fn connected(&mut self, at: usize, parts: &[Tree], sign: &str, make: fn(Vec<Node>) -> Op) -> Checked {
        let nodes = self.nodes(parts)?;
        for node in &nodes {
            node.wants(Kind::Bool, &format!("what stands beside `{sign}`"))?;
        }
        Node::new(at, Kind::Bool, make(nodes))
    }

    fn list(&mut self, at: usize, items: &[Tree]) -> Checked {
        let nodes = self.nodes(items)?;
        let mut kinds = nodes.iter().map(|node| node.kind);
        let first = kinds.next().unwrap_or(Kind::Any);
        let kind = if kinds.all(|kind| kind == first) { Plain::of(first) } else { Plain::Any };
        let mut values = nodes.iter().map(|node| match &node.op {
            Op::Constant(value) => Some(value.clone()),
            _ => None,
        });
        // A list that is always the same is made once.
        if let Some(all) = values.by_ref().collect::<Option<Vec<_>>>() {
            return Node::new(at, Kind::List(kind), Op::Constant(Value::List(all.into())));
        }
        Node::new(at, Kind::List(kind), Op::List(nodes))
    }

    fn map(&mut self, at: usize, entries: &[(Tree, Tree)]) -> Checked {
        let mut nodes = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let (key, value) = (self.node(key)?, self.node(value)?);
            key.wants(Kind::Text, "a key")?;
            nodes.push((key, value));
        }
        Node::new(at, Kind::Map(Plain::Any), Op::Map(nodes))
    }

    fn name(&mut self, at: usize, name: &str) -> Checked {
        if let Some(slot) = self.locals.iter().rposition(|(known, ..)| known == name)
            && let Some((_, kind, size)) = self.locals.get(slot)
        {
            return Ok(Node { size: *size, ..Node::new(at, *kind, Op::Local(slot))? });
        }
        if let Some((_, fact, kind)) = VARIABLES.iter().find(|(known, ..)| *known == name) {
            return Node::new(at, *kind, Op::Fact(*fact));
        }
        if let Some((_, fields)) = RECORDS.iter().find(|(known, _)| *known == name) {
            self.scope.knows(at, name)?;
            let fields: Vec<&str> = fields.iter().map(|(field, ..)| *field).collect();
            let remedy = format!("write one of its fields: {}", fields.join(", "));
            return Err(Flaw::new(at, format!("`{name}` has no value of its own")).remedy(remedy));
        }
        let known = self.locals.iter().map(|(name, ..)| name.as_str());
        let known: Vec<&str> = known
            .chain(RECORDS.iter().map(|(name, _)| *name).filter(|name| self.scope.knows(at, name).is_ok()))
            .chain(VARIABLES.iter().map(|(name, ..)| *name))
            .collect();
        let flaw = Flaw::new(at, format!("there is no variable {}", ticked(name)));
        // With nothing like it, it is most often a part of a name with `-`, or a text without its quotes.
        Err(match suggest::nearest(name, known) {
            Some(near) => flaw.remedy(format!("did you mean `{near}`?")),
            None => {
                flaw.remedy("write texts in quotes, and a header with `-` in its name as `request.headers['x-team']`")
            }
        })
    }

    /// The field of a variable that `on.name` is.
    fn fact(&mut self, on: &Tree, name: &str) -> Result<Option<(Fact, Kind)>, Flaw> {
        let Form::Name(record) = &on.form else { return Ok(None) };
        if self.locals.iter().any(|(known, ..)| known == record) {
            return Ok(None);
        }
        let Some((_, fields)) = RECORDS.iter().find(|(known, _)| known == record) else { return Ok(None) };
        self.scope.knows(on.at, record)?;
        self.asks_principal |= record == "principal";
        match fields.iter().find(|(known, ..)| *known == name) {
            Some((_, fact, kind)) => Ok(Some((*fact, *kind))),
            None => {
                let known: Vec<&str> = fields.iter().map(|(field, ..)| *field).collect();
                let flaw = Flaw::new(on.at, format!("`{record}` has no field {}", ticked(name)));
                Err(flaw.maybe(suggest::remedy(name, &known)))
            }
        }
    }

    fn select(&mut self, at: usize, on: &Tree, name: &str) -> Checked {
        if let Some((fact, kind)) = self.fact(on, name)? {
            return Node::new(at, kind, Op::Fact(fact));
        }
        let on = self.node(on)?;
        if let Op::Fact(Fact::Headers | Fact::ResponseHeaders) = on.op {
            return Node::new(at, Kind::Text, Op::Header(header(at, name)?));
        }
        let kind = member(&on, name)?;
        Node::new(at, kind, Op::Select(Box::new(on), name.into()))
    }

    fn index(&mut self, at: usize, on: &Tree, index: &Tree) -> Checked {
        let (on, index) = (self.node(on)?, self.node(index)?);
        if let (Op::Fact(Fact::Headers | Fact::ResponseHeaders), Some(name)) = (&on.op, index.text()) {
            let name = header(index.at, name)?;
            return Node::new(at, Kind::Text, Op::Header(name));
        }
        let kind = match on.kind {
            Kind::List(items) => {
                index.wants(Kind::Int, "the place in a list")?;
                items.kind()
            }
            Kind::Map(items) => {
                index.wants(Kind::Text, "the key of a map")?;
                items.kind()
            }
            Kind::Any => Kind::Any,
            kind => return Err(Flaw::new(at, format!("{} has no items", kind.as_str()))),
        };
        Node::new(at, kind, Op::Index(Box::new(on), Box::new(index)))
    }

    fn has(&mut self, at: usize, arguments: &[Tree]) -> Checked {
        let remedy = "write has(principal.claims.email), or \"x-name\" in request.headers";
        let [Tree { form: Form::Select(on, name), .. }] = arguments else {
            return Err(Flaw::new(at, "`has` takes one field").remedy(remedy));
        };
        if let Some((fact, _)) = self.fact(on, name)? {
            return Node::new(at, Kind::Bool, Op::HasFact(fact));
        }
        let on = self.node(on)?;
        if let Op::Fact(Fact::Headers | Fact::ResponseHeaders) = on.op {
            return Node::new(at, Kind::Bool, Op::HasHeader(header(at, name)?));
        }
        member(&on, name)?;
        Node::new(at, Kind::Bool, Op::Has(Box::new(on), name.as_str().into()))
    }

    fn call(&mut self, at: usize, name: &str, arguments: &[Tree]) -> Checked {
        if name == "has" {
            return self.has(at, arguments);
        }
        let Some(signature) = FUNCTIONS.iter().find(|(known, ..)| *known == name) else {
            let flaw = Flaw::new(at, format!("there is no function {}", ticked(name)));
            let behind = METHODS.iter().map(|(known, ..)| *known).chain(WALKS.iter().map(|(known, _)| *known));
            if behind.chain(["matches", "inNetwork"]).any(|known| known == name) {
                return Err(flaw.remedy(format!("write it behind what it is about: value.{name}(...)")));
            }
            let known: Vec<&str> = FUNCTIONS.iter().map(|(known, ..)| *known).chain(["has"]).collect();
            return Err(flaw.maybe(suggest::remedy(name, &known)));
        };
        let nodes = self.nodes(arguments)?;
        called(at, signature, nodes)
    }

    fn method(&mut self, at: usize, on: &Tree, name: &str, arguments: &[Tree]) -> Checked {
        if let Some((_, walk)) = WALKS.iter().find(|(known, _)| *known == name) {
            return self.walk(at, *walk, on, name, arguments);
        }
        let on = self.node(on)?;
        match name {
            "matches" => return self.matches(at, on, arguments),
            "inNetwork" => return self.in_network(at, on, arguments),
            _ => {}
        }
        let Some(signature) = METHODS.iter().find(|(known, ..)| *known == name) else {
            let known = METHODS.iter().map(|(known, ..)| *known).chain(WALKS.iter().map(|(known, _)| *known));
            let known: Vec<&str> = known.chain(["matches", "inNetwork"]).collect();
            let flaw = Flaw::new(at, format!("there is no function `{name}` behind a value"));
            return Err(flaw.maybe(suggest::remedy(name, &known)));
        };
        let mut nodes = self.nodes(arguments)?;
        nodes.insert(0, on);
        called(at, signature, nodes)
    }

    fn matches(&mut self, at: usize, on: Node, arguments: &[Tree]) -> Checked {
        on.wants(Kind::Text, "what stands before `.matches`")?;
        let [Tree { at: place, form: Form::Text(pattern) }] = arguments else {
            let flaw = Flaw::new(at, "`matches` takes one pattern that is written out");
            return Err(flaw.remedy("write a text in quotes, as r\"^/v[0-9]+/\""));
        };
        let pattern = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).build();
        let pattern = pattern.map_err(|why| {
            let last = why.to_string();
            let last = last.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Flaw::new(*place, format!("this is not a pattern: {last}"))
        })?;
        Node::new(at, Kind::Bool, Op::Matches(Box::new(on), pattern))
    }

    fn in_network(&mut self, at: usize, on: Node, arguments: &[Tree]) -> Checked {
        on.wants(Kind::Text, "what stands before `.inNetwork`")?;
        let [Tree { at: place, form: Form::Text(network) }] = arguments else {
            let flaw = Flaw::new(at, "`inNetwork` takes one network that is written out");
            return Err(flaw.remedy("write it in quotes, as \"10.0.0.0/8\""));
        };
        let network =
            Network::parse(network).map_err(|remedy| Flaw::new(*place, "this is not a network").remedy(remedy))?;
        Node::new(at, Kind::Bool, Op::InNetwork(Box::new(on), network))
    }

    fn walk(&mut self, at: usize, walk: Walk, on: &Tree, name: &str, arguments: &[Tree]) -> Checked {
        let on = self.node(on)?;
        let item = match on.kind {
            Kind::List(items) => items.kind(),
            Kind::Map(_) => Kind::Text,
            Kind::Any => Kind::Any,
            kind => return Err(Flaw::new(at, format!("`{name}` looks at a list or a map, not at {}", kind.as_str()))),
        };
        let [Tree { form: Form::Name(local), .. }, body] = arguments else {
            let flaw = Flaw::new(at, format!("`{name}` takes a name for the item, and what to do with it"));
            return Err(flaw.remedy(format!("write list.{name}(item, item == \"a\")")));
        };
        if RECORDS.iter().any(|(known, _)| known == local) || VARIABLES.iter().any(|(known, ..)| known == local) {
            return Err(Flaw::new(at, format!("`{local}` has a meaning already")).remedy("choose another name"));
        }
        self.locals.push((local.clone(), item, on.size.item()));
        let body = self.node(body);
        self.locals.pop();
        let body = body?;
        let kind = match walk {
            Walk::Map => Kind::List(Plain::of(body.kind)),
            Walk::Filter => Kind::List(Plain::of(item)),
            Walk::All | Walk::Exists | Walk::ExistsOne => Kind::Bool,
        };
        if walk != Walk::Map {
            body.wants(Kind::Bool, &format!("what `{name}` asks of each item"))?;
        }
        Node::new(at, kind, Op::Walk(walk, Box::new(on), Box::new(body)))
    }
}

fn header(at: usize, name: &str) -> Result<FieldName, Flaw> {
    FieldName::new(name).map_err(|_| Flaw::new(at, "this is not the name of a header"))
}

/// The kind of `on.name`.
fn member(on: &Node, name: &str) -> Result<Kind, Flaw> {
    match on.kind {
        Kind::Map(items) => Ok(items.kind()),
        Kind::Any => Ok(Kind::Any),
        kind => {
            let flaw = Flaw::new(on.at, format!("{} has no field {}", kind.as_str(), ticked(name)));
            let is_method = METHODS.iter().any(|(known, ..)| *known == name);
            Err(flaw.maybe(is_method.then(|| format!("it is a function: write value.{name}(...)"))))
        }
    }
}

fn called(at: usize, (name, function, takes, gives): &Signature, nodes: Vec<Node>) -> Checked {
    if nodes.len() != takes.len() {
        return Err(Flaw::new(at, format!("`{name}` takes {} values, not {}", takes.len(), nodes.len())));
    }
    for (node, wanted) in nodes.iter().zip(*takes) {
        node.wants(*wanted, &format!("what `{name}` is given"))?;
    }
    let is_sized = |kind| matches!(kind, Kind::Any | Kind::Text | Kind::List(_) | Kind::Map(_));
    if let (Function::Size, [node]) = (function, nodes.as_slice())
        && !is_sized(node.kind)
    {
        return Err(Flaw::new(node.at, format!("{} has no size", node.kind.as_str())));
    }
    // What is written out is read once, and refused here when it is wrong.
    if let [node] = nodes.as_slice()
        && let Some(text) = node.text()
    {
        let value = match function {
            Function::Time => Some(time::parse(text).map(Value::Time)),
            Function::Span => Some(span::parse(text).map(Value::Span)),
            _ => None,
        };
        match value {
            Some(Some(value)) => return Node::new(at, *gives, Op::Constant(value)),
            Some(None) => {
                let flaw = Flaw::new(node.at, format!("this is not {}", gives.as_str()));
                return Err(flaw.remedy("write timestamp(\"2026-01-31T08:00:00Z\") or duration(\"1h30m\")"));
            }
            None => {}
        }
    }
    Node::new(at, *gives, Op::Call(*function, nodes))
}

fn binary(at: usize, operator: Binary, left: Node, right: Node) -> Checked {
    let kind = kind_of(operator, &left, &right)?;
    Node::new(at, kind, Op::Binary(operator, Box::new(left), Box::new(right)))
}

fn kind_of(operator: Binary, left: &Node, right: &Node) -> Result<Kind, Flaw> {
    let (a, b) = (left.kind, right.kind);
    let refuse = |why: String| Err(Flaw::new(left.at, why));
    let both = || format!("{} and {}", a.as_str(), b.as_str());
    match operator {
        Binary::Equal | Binary::Unequal => {
            if a.meets(b) && !remedy::is_never_null(left, right) {
                Ok(Kind::Bool)
            } else {
                Err(Flaw::new(left.at, format!("{} are never equal", both())).maybe(remedy::compared(left, right)))
            }
        }
        Binary::Less | Binary::LessOrEqual | Binary::Greater | Binary::GreaterOrEqual => {
            let ordered = |kind| !matches!(kind, Kind::List(_) | Kind::Map(_) | Kind::Null);
            if a.meets(b) && ordered(a) && ordered(b) {
                Ok(Kind::Bool)
            } else {
                Err(Flaw::new(left.at, format!("{} have no order", both())).maybe(remedy::compared(left, right)))
            }
        }
        Binary::In => match b {
            Kind::Any => Ok(Kind::Bool),
            Kind::List(items) if a.meets(items.kind()) => Ok(Kind::Bool),
            Kind::Map(_) if a.meets(Kind::Text) => Ok(Kind::Bool),
            Kind::List(items) => Err(Flaw::new(left.at, format!("{} is never in {}", a.as_str(), b.as_str()))
                .maybe(remedy::turned(a, items.kind()).map(str::to_owned))),
            Kind::Map(_) => refuse(format!("{} is never in {}", a.as_str(), b.as_str())),
            Kind::Text => Err(Flaw::new(left.at, "`in` looks into lists and maps, not into text")
                .remedy("write text.contains(\"part\")")),
            _ => refuse(format!("`in` looks into lists and maps, not into {}", b.as_str())),
        },
        Binary::Add => match (a, b) {
            (Kind::Any, _) | (_, Kind::Any) => Ok(Kind::Any),
            (Kind::Text, Kind::Text) => Ok(Kind::Text),
            (Kind::List(x), Kind::List(y)) => Ok(Kind::List(if x == y { x } else { Plain::Any })),
            (Kind::Time, Kind::Span) | (Kind::Span, Kind::Time) => Ok(Kind::Time),
            (Kind::Span, Kind::Span) => Ok(Kind::Span),
            _ => number(a, b).map_or_else(|| refuse(format!("{} cannot be added", both())), Ok),
        },
        Binary::Subtract => match (a, b) {
            (Kind::Any, _) | (_, Kind::Any) => Ok(Kind::Any),
            (Kind::Time, Kind::Time) | (Kind::Span, Kind::Span) => Ok(Kind::Span),
            (Kind::Time, Kind::Span) => Ok(Kind::Time),
            _ => number(a, b).map_or_else(|| refuse(format!("{} cannot be subtracted", both())), Ok),
        },
        Binary::Multiply | Binary::Divide | Binary::Remainder => {
            number(a, b).map_or_else(|| refuse(format!("`{}` takes numbers, not {}", operator.as_str(), both())), Ok)
        }
    }
}

fn number(a: Kind, b: Kind) -> Option<Kind> {
    match (a, b) {
        (Kind::Int, Kind::Int) => Some(Kind::Int),
        (Kind::Int | Kind::Double, Kind::Int | Kind::Double) => Some(Kind::Double),
        (Kind::Any, _) | (_, Kind::Any) if a.is_number() && b.is_number() => Some(Kind::Any),
        _ => None,
    }
}
