//! The ROUND rule: FLOAT and DOUBLE columns that are read as `ROUND(column, places)`, where the migration file asks for it (`floats = "round"`).
//!
//! Guarantee: a value has the same bits whether a chunk or a comparison reads it (the server rounds) or the log gives it ([`Rounding::double`] does what
//! the server does), so that rows without a key are found by what was copied. Columns of the key that identifies rows are never rounded: keys are
//! looked up at the source, and two of them must not become one.

use crate::check::some;
use crate::sql;
use crate::types::{Kind, MyType};
use drover_model::TablePlan;
use drover_model::check::CheckItem;
use drover_model::plan::Floats;

/// Decimal places of a FLOAT and of a DOUBLE whose type declares none.
const FLOAT_PLACES: u16 = 38;
const DOUBLE_PLACES: u16 = 308;

/// Rounding to a number of decimal places, 0 to 308.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rounding {
    pub places: u16,
    /// Ten to the power of `places`, as bits.
    factor: u64,
}

impl Rounding {
    fn to(places: u16) -> Option<Rounding> {
        // The number next to the power, as the server's own table has it; multiplying would come to others.
        let factor: f64 = format!("1e{places}").parse().ok()?;
        Some(Rounding { places, factor: factor.to_bits() })
    }

    /// How a column of this type is rounded; `None`: it is no floating point number.
    pub fn of_type(my: &MyType) -> Option<Rounding> {
        match my.kind {
            Kind::Float { declared } => Self::to(declared.map_or(FLOAT_PLACES, |(_, scale)| scale.into())),
            Kind::Double { declared } => Self::to(declared.map_or(DOUBLE_PLACES, |(_, scale)| scale.into())),
            _ => None,
        }
    }

    /// How this column of a plan is rounded; `None`: it is read as it is.
    pub fn of(plan: &TablePlan, column: usize) -> Option<Rounding> {
        if plan.floats == Floats::Lossless || plan.key.iter().any(|&k| usize::from(k) == column) {
            return None;
        }
        Self::of_type(&MyType::parse(&plan.columns.get(column)?.origin_type)?)
    }

    /// The expression that reads a column.
    pub fn expression(self, column: &str) -> String {
        format!("ROUND({column}, {})", self.places)
    }

    /// What the server's ROUND makes of a number (`my_double_round` in sql/item_func.cc of MySQL and of MariaDB): the nearest whole number of the
    /// product, halves to even ones; a number whose product is none stays as it is.
    #[inline]
    pub fn double(self, value: f64) -> f64 {
        let factor = f64::from_bits(self.factor);
        let product = value * factor;
        if product.is_finite() { product.round_ties_even() / factor } else { value }
    }

    /// The same of a FLOAT: the server rounds it as a DOUBLE.
    #[inline]
    pub fn float(self, value: f32) -> f32 {
        self.double(f64::from(value)) as f32
    }
}

/// K17: which way of reading floating point numbers is used, for each table that has some.
pub(crate) fn announce(plans: &[TablePlan], items: &mut Vec<CheckItem>) {
    for plan in plans {
        let (mut rounded, mut exact) = (Vec::new(), Vec::new());
        for (i, column) in plan.columns.iter().enumerate() {
            let name = &column.source;
            let is_float = MyType::parse(&column.origin_type).as_ref().and_then(Rounding::of_type).is_some();
            match Rounding::of(plan, i) {
                Some(rounding) => rounded.push(rounding.expression(&sql::name(name))),
                None if is_float => exact.push(name.clone()),
                None => {}
            }
        }
        let object = format!("{} FLOAT, DOUBLE", plan.source);
        if !rounded.is_empty() {
            let keys = if exact.is_empty() { String::new() } else { format!("; {} of the key as it is", some(&exact)) };
            items.push(CheckItem::warning(
                "K17",
                object,
                format!("read as {}{keys}; changes are rounded alike", some(&rounded)),
                "check that this is precise enough; floats = \"lossless\" in [migrate] keeps all digits",
            ));
        } else if !exact.is_empty() {
            let cause = format!("{}: read and written without loss, bit by bit; ROUND is not used", some(&exact));
            items.push(CheckItem { cause, ..CheckItem::passed("K17", object) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drover_model::plan::PlanColumn;
    use drover_model::schema::{DataType, TableName};

    fn rounding(of: &str) -> Rounding {
        Rounding::of_type(&MyType::parse(of).unwrap()).unwrap()
    }

    #[test]
    fn places_are_the_declared_ones_or_the_most_there_are() {
        let places = |of: &str| rounding(of).expression("`c`");
        assert_eq!(places("float"), "ROUND(`c`, 38)");
        assert_eq!(places("float unsigned"), "ROUND(`c`, 38)");
        assert_eq!(places("double"), "ROUND(`c`, 308)");
        assert_eq!(places("float(7,3)"), "ROUND(`c`, 3)");
        assert_eq!(places("double(20,0) unsigned zerofill"), "ROUND(`c`, 0)");
        assert_eq!(Rounding::of_type(&MyType::parse("decimal(5,2)").unwrap()), None);
    }

    #[test]
    fn halves_go_to_even_numbers_and_what_is_too_large_stays() {
        let r = rounding("double(10,2)");
        assert_eq!([1.125, 1.375, -1.125, 0.004, -0.006].map(|v| r.double(v)), [1.12, 1.38, -1.12, 0.0, -0.01]);
        let r = rounding("double");
        for value in [1.7976931348623157e308, -4.2, 1e300] {
            assert_eq!(r.double(value).to_bits(), f64::to_bits(value), "the product overflows");
        }
        assert_eq!(r.double(4e-309), 0.0);
        assert_eq!(rounding("float").float(4e-39), 0.0);
        assert_eq!(rounding("float").float(0.1), 0.1);
    }

    #[test]
    fn a_key_is_read_as_it_is_and_nothing_is_rounded_unless_asked_for() {
        let column = |name: &str, of: &str| PlanColumn::new(name, DataType::Other, of);
        let columns = vec![column("k", "double"), column("f", "float"), column("n", "int")];
        let mut plan = TablePlan::new(0, TableName::new("d", "t"), columns);
        plan.key = vec![0];
        let rounded = |plan: &TablePlan| [0, 1, 2, 3].map(|i| Rounding::of(plan, i).map(|r| r.places));
        assert_eq!(rounded(&plan), [None; 4]);
        plan.floats = Floats::Round;
        assert_eq!(rounded(&plan), [None, Some(38), None, None]);
    }
}
