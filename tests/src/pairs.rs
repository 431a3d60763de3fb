//! The pairs of engines that the end-to-end tests run with, in one table ([`pair_table!`]), and what of the suite each of them runs.
//! A test file names its scenarios in [`suite!`]; each becomes a test `scenario::pair` of every pair that it is for.

use std::fmt;

use crate::Engine;

/// Where from and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    pub source: Engine,
    pub destination: Engine,
}

impl Pair {
    /// PostgreSQL to itself.
    pub const POSTGRES: Pair = Pair { source: Engine::Postgres(15), destination: Engine::Postgres(15) };

    /// MySQL to itself.
    pub const MYSQL: Pair =
        Pair { source: Engine::MySql(crate::Release::MySql9), destination: Engine::MySql(crate::Release::MySql9) };

    /// Both sides are servers of the same engine and version.
    pub fn same(self) -> bool {
        self.source == self.destination
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}", self.source, self.destination)
    }
}

/// The table: a line added here gives the pair its tests. Scenarios marked `main` run with the `main` pairs, those marked `both` with the `second` ones, too,
/// those marked `wide` with the `third` ones as well, those marked `everywhere` with all. What engines and versions hardly make a difference to is `main`, so
/// that all together stay within the time that a change may take.
#[macro_export]
macro_rules! pair_table {
    ($into:ident $depth:ident $scenario:ident) => {
        $crate::$into! { $depth $scenario
            main postgres = Postgres(15) => Postgres(15);
            more postgres_15_to_17 = Postgres(15) => Postgres(17);
            more postgres_17_to_15 = Postgres(17) => Postgres(15);
            second mysql_9 = MySql(MySql9) => MySql(MySql9);
            third mariadb_11 = MySql(MariaDb11) => MySql(MariaDb11);
            more mariadb_10 = MySql(MariaDb10) => MySql(MariaDb10);
            more mysql_9_to_mariadb_11 = MySql(MySql9) => MySql(MariaDb11);
            more mariadb_11_to_mysql_9 = MySql(MariaDb11) => MySql(MySql9);
            more mysql_9_to_mariadb_10 = MySql(MySql9) => MySql(MariaDb10);
            more mariadb_10_to_mysql_9 = MySql(MariaDb10) => MySql(MySql9);
            more mariadb_10_to_11 = MySql(MariaDb10) => MySql(MariaDb11);
        }
    };
}

/// The pairs between kinds of databases. `mysql_to_postgres! { scenario; }` makes a test of each of them: what scenarios within a kind rely on (structures that
/// can be compared, one SQL on both sides) does not hold there.
#[macro_export]
macro_rules! mysql_to_postgres {
    (@ $into:ident $scenario:ident) => {
        $crate::$into! { everywhere $scenario
            second mysql_9_to_postgres_17 = MySql(MySql9) => Postgres(17);
            second mariadb_11_to_postgres_17 = MySql(MariaDb11) => Postgres(17);
        }
    };
    ($($scenario:ident;)*) => {
        $(
            mod $scenario {
                $crate::mysql_to_postgres! { @ pair_tests $scenario }
            }
        )*
    };
}

/// The same the other way.
#[macro_export]
macro_rules! postgres_to_mysql {
    (@ $into:ident $scenario:ident) => {
        $crate::$into! { everywhere $scenario
            second postgres_17_to_mysql_9 = Postgres(17) => MySql(MySql9);
            second postgres_17_to_mariadb_11 = Postgres(17) => MySql(MariaDb11);
        }
    };
    ($($scenario:ident;)*) => {
        $(
            mod $scenario {
                $crate::postgres_to_mysql! { @ pair_tests $scenario }
            }
        )*
    };
}

/// `suite! { everywhere copies_all; main survives_kills; }`: each scenario is an `async fn(Pair) -> anyhow::Result<()>` beside it.
#[macro_export]
macro_rules! suite {
    ($($depth:ident $scenario:ident;)*) => {
        $(
            mod $scenario {
                $crate::pair_table! { pair_tests $depth $scenario }
            }
        )*
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! pair_list {
    ($depth:ident $scenario:ident $($row:ident $name:ident = $from:expr => $to:expr;)*) => {
        [$((stringify!($name), $crate::Pair { source: $from, destination: $to })),*]
    };
}

/// Every pair of the tables above by its name.
pub fn all() -> Vec<(&'static str, Pair)> {
    use crate::Engine::{MySql, Postgres};
    use crate::Release::{MariaDb10, MariaDb11, MySql9};
    let within = crate::pair_table! { pair_list everywhere all };
    let there = crate::mysql_to_postgres! { @ pair_list all };
    let back = crate::postgres_to_mysql! { @ pair_list all };
    within.into_iter().chain(there).chain(back).collect()
}

#[doc(hidden)]
#[macro_export]
macro_rules! pair_tests {
    // Rows that a scenario passes by.
    (main $scenario:ident second $name:ident = $from:expr => $to:expr; $($rest:tt)*) => {
        $crate::pair_tests! { main $scenario $($rest)* }
    };
    (main $scenario:ident third $name:ident = $from:expr => $to:expr; $($rest:tt)*) => {
        $crate::pair_tests! { main $scenario $($rest)* }
    };
    (both $scenario:ident third $name:ident = $from:expr => $to:expr; $($rest:tt)*) => {
        $crate::pair_tests! { both $scenario $($rest)* }
    };
    (both $scenario:ident more $name:ident = $from:expr => $to:expr; $($rest:tt)*) => {
        $crate::pair_tests! { both $scenario $($rest)* }
    };
    (main $scenario:ident more $name:ident = $from:expr => $to:expr; $($rest:tt)*) => {
        $crate::pair_tests! { main $scenario $($rest)* }
    };
    (wide $scenario:ident more $name:ident = $from:expr => $to:expr; $($rest:tt)*) => {
        $crate::pair_tests! { wide $scenario $($rest)* }
    };
    ($depth:ident $scenario:ident $row:ident $name:ident = $from:expr => $to:expr; $($rest:tt)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() -> ::anyhow::Result<()> {
            #[allow(unused_imports)]
            use $crate::{Engine::{MySql, Postgres}, Release::{MariaDb10, MariaDb11, MySql9}};
            super::$scenario($crate::Pair { source: $from, destination: $to }).await
        }
        $crate::pair_tests! { $depth $scenario $($rest)* }
    };
    ($depth:ident $scenario:ident) => {};
}
