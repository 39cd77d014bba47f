//! From words to a tree, by the grammar of CEL.
//!
//! Called by `Expression::compile`; `check` gives the tree types and looks names up. Nesting is bounded here, size by the length of the text.

use super::token::{Token, tokens};
use super::{Flaw, MOST_DEPTH};
use transept_model::value::ticked;

/// A part of an expression and where it begins, in bytes.
#[derive(Debug)]
pub(super) struct Tree {
    pub at: usize,
    pub form: Form,
}

#[derive(Debug)]
pub(super) enum Form {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(String),
    Name(String),
    Select(Box<Tree>, String),
    Index(Box<Tree>, Box<Tree>),
    Call(Option<Box<Tree>>, String, Vec<Tree>),
    Not(Box<Tree>),
    Negate(Box<Tree>),
    Binary(Binary, Box<Tree>, Box<Tree>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
    Choice(Box<Tree>, Box<Tree>, Box<Tree>),
    List(Vec<Tree>),
    Map(Vec<(Tree, Tree)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Binary {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Binary::Equal => "==",
            Binary::Unequal => "!=",
            Binary::Less => "<",
            Binary::LessOrEqual => "<=",
            Binary::Greater => ">",
            Binary::GreaterOrEqual => ">=",
            Binary::In => "in",
            Binary::Add => "+",
            Binary::Subtract => "-",
            Binary::Multiply => "*",
            Binary::Divide => "/",
            Binary::Remainder => "%",
        }
    }
}

type Parsed = Result<Tree, Flaw>;

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

/// The tree of a whole expression.
pub(super) fn parse(text: &str) -> Parsed {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
    if parser.peek() == &Token::End {
        return Err(Flaw::new(0, "the expression is empty").remedy("write one, such as request.method == \"GET\""));
    }
    let tree = parser.expression()?;
    match parser.peek() {
        Token::End => Ok(tree),
        _ => Err(parser.unexpected("the end, `&&` or `||`")),
    }
}

const RELATIONS: &[(&str, Binary)] = &[
    ("==", Binary::Equal),
    ("!=", Binary::Unequal),
    ("<", Binary::Less),
    ("<=", Binary::LessOrEqual),
    (">", Binary::Greater),
    (">=", Binary::GreaterOrEqual),
];
const SUMS: &[(&str, Binary)] = &[("+", Binary::Add), ("-", Binary::Subtract)];
const PRODUCTS: &[(&str, Binary)] = &[("*", Binary::Multiply), ("/", Binary::Divide), ("%", Binary::Remainder)];

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(0, |(at, _)| *at)
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(found) if *found == sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), Flaw> {
        if self.take(sign) { Ok(()) } else { Err(self.unexpected(&format!("`{sign}`"))) }
    }

    fn unexpected(&self, wanted: &str) -> Flaw {
        let found = match self.peek() {
            Token::End => "the end".to_owned(),
            Token::Name(name) => ticked(name),
            Token::Sign(sign) => format!("`{sign}`"),
            Token::Int(_) | Token::Least | Token::Double(_) => "a number".to_owned(),
            Token::Text(_) => "a text".to_owned(),
        };
        Flaw::new(self.at(), format!("expected {wanted}, found {found}"))
    }

    fn deeper(&mut self, parse: fn(&mut Self) -> Parsed) -> Parsed {
        if self.depth == MOST_DEPTH {
            return Err(Flaw::new(self.at(), format!("it is nested deeper than {MOST_DEPTH} levels"))
                .remedy("make several of it"));
        }
        self.depth += 1;
        let tree = parse(self);
        self.depth -= 1;
        tree
    }

    fn expression(&mut self) -> Parsed {
        self.deeper(Self::choice)
    }

    fn choice(&mut self) -> Parsed {
        let condition = self.or()?;
        let at = condition.at;
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.deeper(Self::or)?;
        self.expect(":")?;
        let no = self.expression()?;
        Ok(Tree { at, form: Form::Choice(Box::new(condition), Box::new(yes), Box::new(no)) })
    }

    fn or(&mut self) -> Parsed {
        self.several("||", Self::and, Form::Or)
    }

    fn and(&mut self) -> Parsed {
        self.several("&&", Self::relation, Form::And)
    }

    fn several(&mut self, sign: &str, part: fn(&mut Self) -> Parsed, make: fn(Vec<Tree>) -> Form) -> Parsed {
        let first = part(self)?;
        let at = first.at;
        let mut all = vec![first];
        while self.take(sign) {
            all.push(part(self)?);
        }
        match all.len() {
            1 => Ok(all.remove(0)),
            _ => Ok(Tree { at, form: make(all) }),
        }
    }

    fn relation(&mut self) -> Parsed {
        let mut left = self.sum()?;
        loop {
            let operator = match self.peek() {
                Token::Name(name) if name == "in" => Binary::In,
                Token::Sign(sign) => match RELATIONS.iter().find(|(known, _)| known == sign) {
                    Some((_, operator)) => *operator,
                    None => return Ok(left),
                },
                _ => return Ok(left),
            };
            self.next += 1;
            left = binary(operator, left, self.sum()?);
        }
    }

    fn chain(&mut self, signs: &[(&str, Binary)], part: fn(&mut Self) -> Parsed) -> Parsed {
        let mut left = part(self)?;
        while let Some((_, operator)) = signs.iter().find(|(sign, _)| self.take(sign)) {
            left = binary(*operator, left, part(self)?);
        }
        Ok(left)
    }

    fn sum(&mut self) -> Parsed {
        self.chain(SUMS, Self::product)
    }

    fn product(&mut self) -> Parsed {
        self.chain(PRODUCTS, Self::unary)
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        if self.take("!") {
            let inner = self.deeper(Self::unary)?;
            return Ok(Tree { at, form: Form::Not(Box::new(inner)) });
        }
        if self.take("-") {
            if self.peek() == &Token::Least {
                self.next += 1;
                return Ok(Tree { at, form: Form::Int(i64::MIN) });
            }
            let inner = self.deeper(Self::unary)?;
            return Ok(Tree { at, form: Form::Negate(Box::new(inner)) });
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        let mut tree = self.primary()?;
        loop {
            let at = tree.at;
            if self.take(".") {
                let Token::Name(name) = self.peek().clone() else {
                    return Err(self.unexpected("a name"));
                };
                self.next += 1;
                let form = if self.take("(") {
                    Form::Call(Some(Box::new(tree)), name, self.list(")")?)
                } else {
                    Form::Select(Box::new(tree), name)
                };
                tree = Tree { at, form };
            } else if self.take("[") {
                let index = self.expression()?;
                self.expect("]")?;
                tree = Tree { at, form: Form::Index(Box::new(tree), Box::new(index)) };
            } else {
                return Ok(tree);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        let token = self.peek().clone();
        if matches!(token, Token::End) {
            return Err(self.unexpected("a value"));
        }
        self.next += 1;
        let form = match token {
            Token::Int(value) => Form::Int(value),
            Token::Least => return Err(Flaw::new(at, "this is not a number of 64 bits, but with a minus before it")),
            Token::Double(value) => Form::Double(value),
            Token::Text(value) => Form::Text(value),
            Token::Name(name) => match &*name {
                "true" => Form::Bool(true),
                "false" => Form::Bool(false),
                "null" => Form::Null,
                _ if self.take("(") => Form::Call(None, name, self.list(")")?),
                _ => Form::Name(name),
            },
            Token::Sign("(") => {
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => Form::List(self.list("]")?),
            Token::Sign("{") => Form::Map(self.entries()?),
            Token::Sign(_) | Token::End => {
                self.next -= 1;
                return Err(self.unexpected("a value"));
            }
        };
        Ok(Tree { at, form })
    }

    /// Values with commas between them, up to the closing sign. A comma may stand at the end.
    fn list(&mut self, close: &'static str) -> Result<Vec<Tree>, Flaw> {
        let mut all = Vec::new();
        while !self.take(close) {
            all.push(self.expression()?);
            if !self.take(",") {
                self.expect(close)?;
                break;
            }
        }
        Ok(all)
    }

    fn entries(&mut self) -> Result<Vec<(Tree, Tree)>, Flaw> {
        let mut all = Vec::new();
        while !self.take("}") {
            let key = self.expression()?;
            self.expect(":")?;
            all.push((key, self.expression()?));
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(all)
    }
}

fn binary(operator: Binary, left: Tree, right: Tree) -> Tree {
    Tree { at: left.at, form: Form::Binary(operator, Box::new(left), Box::new(right)) }
}
