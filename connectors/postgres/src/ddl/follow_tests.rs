use super::*;

#[test]
fn types_convert_alike_everywhere_or_not() {
    let int = |bytes| DataType::Int { bytes, unsigned: false };
    let text = |max| DataType::Text { max, padded: false };
    let instant = |zone| DataType::Timestamp { precision: 6, zone };
    assert!(converts(&int(4), &int(8)) && converts(&text(Some(9)), &text(None)) && converts(&int(4), &text(None)));
    assert!(!converts(&instant(true), &instant(false)) && !converts(&instant(true), &text(None)));
    assert!(!converts(&DataType::Float { bytes: 8 }, &text(None)) && !converts(&DataType::Bool, &text(None)));
}
