use super::*;

#[test]
fn only_what_keeps_every_value_widens() {
    let int = |bytes, unsigned| DataType::Int { bytes, unsigned };
    let decimal = |p, s| DataType::Decimal { precision: Some(p), scale: Some(s) };
    let text = |max| DataType::Text { max, padded: false };
    for (old, new, wanted) in [
        (int(4, false), int(8, false), true),
        (int(4, true), int(8, false), true),
        (int(4, true), int(4, false), false),
        (int(8, false), int(4, false), false),
        (int(4, false), decimal(12, 2), true),
        (int(8, false), decimal(12, 2), false),
        (decimal(10, 2), decimal(12, 4), true),
        (decimal(10, 2), decimal(10, 4), false),
        (text(Some(10)), text(None), true),
        (text(Some(10)), text(Some(9)), false),
        (text(None), text(Some(9)), false),
        (DataType::Float { bytes: 8 }, int(8, false), false),
        (DataType::Date, DataType::Timestamp { precision: 6, zone: false }, false),
    ] {
        assert_eq!(widens(&old, &new), wanted, "{old:?} to {new:?}");
    }
}
