//! What the bytes of a cell are in [`crate::plan::RowFormat::Canonical`], by the [`crate::schema::DataType`] of its column at the source: the form
//! in which rows pass between different kinds of databases, in blocks and in changes. The source's connector writes it, the destination's reads it; neither
//! knows the other.
//!
//! | data type | bytes of a cell |
//! |---|---|
//! | bool | `t` or `f` |
//! | integers | decimal digits, `-` if negative |
//! | float | the shortest decimal text that reads back as the same value; `NaN`, `Infinity`, `-Infinity` |
//! | decimal | digits with `.`, as many after it as the source shows; `NaN`, `Infinity`, `-Infinity` |
//! | text, enum | UTF-8 |
//! | bytes | the bytes themselves |
//! | date | `YYYY-MM-DD`; years have four digits or more; ` BC` behind those before year 1; `infinity`, `-infinity` |
//! | time | `HH:MM:SS[.ffffff]`, hours may exceed 23 and be negative; with a zone `+HH[:MM[:SS]]` behind it |
//! | timestamp | `YYYY-MM-DD HH:MM:SS[.ffffff]`, as date; an instant (zone) is in UTC with `+00` behind it |
//! | interval | ISO 8601, or what the source's own kind shows |
//! | uuid | 36 characters in small letters |
//! | json | its text |
//! | bit | digits `0` and `1` |
//! | array, other | the source's own text form |
//!
//! A value that its type has at the source and not here (a date with a zero month, an instant out of range) keeps the source's text: whether there
//! is a place for it is the destination's to say.
