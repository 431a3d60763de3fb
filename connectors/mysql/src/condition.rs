//! Row conditions (`where` of the migration file), evaluated on changes: what a change does to the destination depends on whether the row satisfied the
//! condition before it and whether it does afterwards.
//!
//! Guarantee: a condition that [`Condition::parse`] accepts says of each row what the server says of it in a session of drover's (see
//! `connect::SETTINGS`), with which the rows are copied. What cannot be told exactly is refused, with what to write instead:
//!
//! | column | may be compared |
//! |---|---|
//! | integers, DECIMAL | with numbers without exponent; integers with whole numbers in quotes, too |
//! | CHAR, VARCHAR, TEXT | by `=`, `<>`, `IN` with texts, where the collation compares bytes (`…_bin`), the column's own or one named by COLLATE |
//! | ENUM | by `=`, `<>`, `IN` with its labels, to the letter |
//! | DATE, DATETIME, TIMESTAMP | with moments in full (`'2024-01-31'`, `'2024-01-31 12:00:00'`), those of a TIMESTAMP in UTC |
//! | any | by `IS NULL`, `IS NOT NULL` (of dates those that can be null: of others the server says that zero is null) |
//!
//! together with AND, OR, NOT and parentheses.

use crate::types::{Kind, MyType};
use drover_model::TablePlan;
use sqlparser::ast::{BinaryOperator, Expr, Ident, UnaryOperator, Value};
use sqlparser::dialect::MySqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer, Whitespace};
use std::cmp::Ordering;

mod operand;

use operand::{Number, Way};

/// Parentheses and operators within each other, at most.
const DEPTH: usize = 60;

/// What the plan does not say of a column.
#[derive(Debug, Clone, Default)]
pub struct Detail {
    pub collation: Option<String>,
    pub nullable: bool,
}

/// Why a condition cannot be evaluated on changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

const LEAVE: &str = "write the condition otherwise, or migrate this table without \"incremental\"";

fn refusal(why: impl Into<String>, remedy: &str) -> Refusal {
    Refusal { why: why.into(), remedy: remedy.to_owned() }
}

/// A condition on the columns of one table's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    root: Node,
    columns: Vec<Column>,
}

/// A column that a condition reads.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Column {
    /// Its index in the plan.
    index: usize,
    way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Not(Box<Node>),
    /// The number is an index into [`Condition::columns`]; likewise below. The value is in the form of the column's [`Way`].
    Compare(usize, Test, Vec<u8>),
    In(usize, Vec<Vec<u8>>),
    IsNull(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Test {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Test::Equal => order.is_eq(),
            Test::NotEqual => order.is_ne(),
            Test::Less => order.is_lt(),
            Test::LessOrEqual => order.is_le(),
            Test::Greater => order.is_gt(),
            Test::GreaterOrEqual => order.is_ge(),
        }
    }

    /// The same with both sides exchanged.
    fn turned(self) -> Test {
        match self {
            Test::Less => Test::Greater,
            Test::LessOrEqual => Test::GreaterOrEqual,
            Test::Greater => Test::Less,
            Test::GreaterOrEqual => Test::LessOrEqual,
            same => same,
        }
    }
}

impl Condition {
    /// The plan's condition; `None` if it has none. `details`: one for each column of the plan.
    pub fn of(plan: &TablePlan, details: &[Detail]) -> Result<Option<Condition>, Refusal> {
        plan.filter.as_ref().map(|text| Condition::parse(text, plan, details)).transpose()
    }

    /// Reads a condition.
    pub fn parse(text: &str, plan: &TablePlan, details: &[Detail]) -> Result<Condition, Refusal> {
        if text.contains('\\') {
            return Err(refusal("the condition has a backslash, which drover does not read in changes", LEAVE));
        }
        let unreadable = |e: String| refusal(format!("drover cannot read the condition on changes ({e})"), LEAVE);
        let dialect = MySqlDialect {};
        let tokens = Tokenizer::new(&dialect, text).tokenize().map_err(|e| unreadable(e.to_string()))?;
        let comment = |t: &Token| {
            matches!(t, Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)))
        };
        if tokens.iter().any(comment) {
            return Err(refusal("the condition has a comment, which servers may execute", "leave the comment out"));
        }
        let mut parser = Parser::new(&dialect).with_recursion_limit(DEPTH).with_tokens(tokens);
        let parsed = parser.parse_expr().map_err(|e| unreadable(e.to_string()))?;
        parser.expect_token(&Token::EOF).map_err(|e| unreadable(e.to_string()))?;
        let mut reading = Reading { plan, details, columns: Vec::new() };
        let root = reading.node(&parsed)?;
        Ok(Condition { root, columns: reading.columns })
    }

    /// The plan's columns that it reads, in the order in which [`Condition::holds`] is given their values.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().map(|c| c.index)
    }

    /// Whether a row satisfies it. `cell`: the bytes of the n-th of [`Condition::columns`], as the head of the crate has them; `None` for null.
    pub fn holds<'a>(&self, cell: impl Fn(usize) -> Option<&'a [u8]>) -> bool {
        self.value(&self.root, &cell) == Some(true)
    }

    /// `None`: unknown, as SQL has it.
    fn value<'a>(&self, node: &Node, cell: &impl Fn(usize) -> Option<&'a [u8]>) -> Option<bool> {
        match node {
            Node::And(both) => match (self.value(&both[0], cell), self.value(&both[1], cell)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            },
            Node::Or(both) => match (self.value(&both[0], cell), self.value(&both[1], cell)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (Some(false), Some(false)) => Some(false),
                _ => None,
            },
            Node::Not(inner) => self.value(inner, cell).map(|v| !v),
            Node::Compare(at, test, value) => {
                cell(*at).map(|bytes| test.holds(self.columns[*at].way.compare(bytes, value)))
            }
            Node::In(at, values) => {
                let way = &self.columns[*at].way;
                cell(*at).map(|bytes| values.iter().any(|v| way.compare(bytes, v).is_eq()))
            }
            Node::IsNull(at) => Some(cell(*at).is_none()),
        }
    }
}

/// What a condition is read with.
struct Reading<'a> {
    plan: &'a TablePlan,
    details: &'a [Detail],
    columns: Vec<Column>,
}

impl Reading<'_> {
    fn node(&mut self, expression: &Expr) -> Result<Node, Refusal> {
        match expression {
            Expr::Nested(inner) => self.node(inner),
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Ok(Node::Not(Box::new(self.node(expr)?))),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                Ok(Node::And(Box::new([self.node(left)?, self.node(right)?])))
            }
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                Ok(Node::Or(Box::new([self.node(left)?, self.node(right)?])))
            }
            Expr::BinaryOp { left, op, right } => {
                let test = test(op).ok_or_else(|| unknown(expression))?;
                if is_column(left) { self.compare(left, test, right) } else { self.compare(right, test.turned(), left) }
            }
            Expr::Between { expr, negated, low, high } => {
                let low = self.compare(expr, Test::GreaterOrEqual, low)?;
                let high = self.compare(expr, Test::LessOrEqual, high)?;
                // Two kinds of values would be compared in yet another way.
                let within = Node::And(Box::new([low, high]));
                Ok(if *negated { Node::Not(Box::new(within)) } else { within })
            }
            Expr::InList { expr, list, negated } => {
                let at = self.column(expr, true)?;
                let numbers = list.iter().filter(|e| text_of(e).is_none()).count();
                if numbers != 0 && numbers != list.len() {
                    let why =
                        format!("{expression} mixes numbers and texts, which the server compares in a way of its own");
                    return Err(refusal(why, LEAVE));
                }
                let values: Result<Vec<_>, _> = list.iter().map(|e| self.value(at, Test::Equal, e)).collect();
                let within = Node::In(at, values?);
                Ok(if *negated { Node::Not(Box::new(within)) } else { within })
            }
            Expr::IsNull(inner) => Ok(Node::IsNull(self.nullness(inner)?)),
            Expr::IsNotNull(inner) => Ok(Node::Not(Box::new(Node::IsNull(self.nullness(inner)?)))),
            _ => Err(unknown(expression)),
        }
    }

    fn compare(&mut self, column: &Expr, test: Test, value: &Expr) -> Result<Node, Refusal> {
        let at = self.column(column, true)?;
        Ok(Node::Compare(at, test, self.value(at, test, value)?))
    }

    fn value(&self, at: usize, test: Test, value: &Expr) -> Result<Vec<u8>, Refusal> {
        let Column { index, way } = &self.columns[at];
        let column = &self.plan.columns[*index];
        let exact = matches!(test, Test::Equal | Test::NotEqual);
        let read = match (literal(value), way) {
            (Some(Literal::Text(_)), Way::Number { whole: false })
            | (Some(Literal::Number(_)), Way::Text { .. } | Way::Label(_))
            | (Some(Literal::Number(_)), Way::Moment { .. }) => {
                Err("the server compares such a pair with rounding".to_owned())
            }
            (_, Way::Text { .. } | Way::Label(_)) if !exact => {
                Err("texts are compared by =, <> and IN only".to_owned())
            }
            (_, Way::Nothing(why)) => Err(why.clone()),
            (Some(Literal::Number(text)), Way::Number { .. }) => operand::number(&text),
            (Some(Literal::Text(text)), Way::Number { .. }) => operand::whole_number(&text),
            (Some(Literal::Text(text)), way) => way.operand(&text),
            (None, _) => Err("only numbers and texts can be compared with".to_owned()),
        };
        read.map_err(|why| {
            refusal(format!("{} ({}) is compared with {value}: {why}", column.source, column.origin_type), way.remedy())
        })
    }

    fn nullness(&mut self, expression: &Expr) -> Result<usize, Refusal> {
        let at = self.column(expression, false)?;
        let index = self.columns[at].index;
        let kind = MyType::parse(&self.plan.columns[index].origin_type).map(|my| my.kind);
        let date = matches!(kind, Some(Kind::Date | Kind::DateTime { .. } | Kind::Timestamp { .. }));
        if date && !self.details.get(index).is_some_and(|d| d.nullable) {
            let why = format!("{expression} cannot be null, and the server then takes the zero date for null");
            return Err(refusal(why, "leave this part of the condition out"));
        }
        Ok(at)
    }

    /// Finds a column and notes it. `compared`: in a way that depends on its type.
    fn column(&mut self, expression: &Expr, compared: bool) -> Result<usize, Refusal> {
        let (expression, collation) = match expression {
            Expr::Collate { expr, collation } => (&**expr, Some(collation.to_string().to_ascii_lowercase())),
            other => (other, None),
        };
        let names: &[Ident] = match expression {
            Expr::Identifier(name) => std::slice::from_ref(name),
            Expr::CompoundIdentifier(names) => names,
            Expr::Nested(inner) if collation.is_none() => return self.column(inner, compared),
            _ => return Err(unknown(expression)),
        };
        let table = &self.plan.source;
        let (qualifiers, name) = match names {
            [name] => (true, name),
            [of, name] => (of.value == table.name, name),
            [database, of, name] => (database.value == table.schema && of.value == table.name, name),
            _ => (false, &names[0]),
        };
        let bare = name.quote_style.is_none() && operand::is_function(&name.value);
        if !qualifiers || bare || name.quote_style.is_some_and(|q| q != '`') {
            return Err(unknown(expression));
        }
        let columns = &self.plan.columns;
        let lower = name.value.to_lowercase();
        let index = columns.iter().position(|c| c.source == name.value);
        let index = index.or_else(|| columns.iter().position(|c| c.source.to_lowercase() == lower));
        let index = index.ok_or_else(|| {
            refusal(
                format!(
                    "the condition names {}, which is no column that moves: changes cannot be told by it",
                    name.value
                ),
                "let the column move (take it out of columns.drop), or migrate this table without \"incremental\"",
            )
        })?;
        let own = self.details.get(index).and_then(|d| d.collation.as_deref());
        let way = if compared {
            Way::of(&columns[index], collation.as_deref().or(own), collation.is_some())
        } else {
            Way::Nothing(String::new())
        };
        let known = self.columns.iter().position(|c| c.index == index && c.way == way);
        Ok(known.unwrap_or_else(|| {
            self.columns.push(Column { index, way });
            self.columns.len() - 1
        }))
    }
}

fn unknown(expression: &Expr) -> Refusal {
    refusal(
        format!("drover cannot evaluate {expression} on changes"),
        "use comparisons of columns with literals, IN, BETWEEN, IS NULL, AND, OR and NOT, or migrate this table without \"incremental\"",
    )
}

fn test(op: &BinaryOperator) -> Option<Test> {
    Some(match op {
        BinaryOperator::Eq => Test::Equal,
        BinaryOperator::NotEq => Test::NotEqual,
        BinaryOperator::Lt => Test::Less,
        BinaryOperator::LtEq => Test::LessOrEqual,
        BinaryOperator::Gt => Test::Greater,
        BinaryOperator::GtEq => Test::GreaterOrEqual,
        _ => return None,
    })
}

fn is_column(expression: &Expr) -> bool {
    match expression {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Collate { .. } => true,
        Expr::Nested(inner) => is_column(inner),
        _ => false,
    }
}

enum Literal {
    Number(String),
    Text(String),
}

fn literal(expression: &Expr) -> Option<Literal> {
    match expression {
        Expr::Nested(inner) => literal(inner),
        Expr::Value(value) => match &value.value {
            Value::Number(text, false) => Some(Literal::Number(text.clone())),
            Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => Some(Literal::Text(text.clone())),
            Value::Boolean(value) => Some(Literal::Number(u8::from(*value).to_string())),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal(expr)? {
            Literal::Number(text) if !text.starts_with('-') => Some(Literal::Number(format!("-{text}"))),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Plus, expr } => match literal(expr)? {
            Literal::Number(text) => Some(Literal::Number(text)),
            Literal::Text(_) => None,
        },
        _ => None,
    }
}

fn text_of(expression: &Expr) -> Option<String> {
    match literal(expression)? {
        Literal::Text(text) => Some(text),
        Literal::Number(_) => None,
    }
}

impl Way {
    /// How a cell stands to a value of a condition.
    fn compare(&self, cell: &[u8], value: &[u8]) -> Ordering {
        match self {
            Way::Number { .. } => Number::of(cell).cmp(&Number::of(value)),
            Way::Text { padded: true } => operand::unpadded(cell).cmp(operand::unpadded(value)),
            Way::Text { padded: false } | Way::Label(_) | Way::Nothing(_) => cell.cmp(value),
            Way::Moment { .. } => operand::moments(cell, value),
        }
    }
}

#[cfg(test)]
mod tests;
