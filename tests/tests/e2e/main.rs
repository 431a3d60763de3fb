//! The end-to-end tests: servers, drover and an application between them. One program, so that it is linked once and that a test which waits leaves no processor idle.
//! `cargo test -p drover-tests --test e2e zones::` runs those of one file. What measures, or takes over more than its own servers, is a program of its own beside this one.

mod adopt;
mod basic;
mod cluster;
mod commits;
mod contract;
mod coordinators;
mod cutover;
mod ddl;
mod ddl_kinds;
mod ddl_postgres;
mod disks;
mod extremes;
mod failover;
mod faults;
mod floats;
mod mapping;
mod marks;
mod mysql_to_postgres;
mod owed;
mod permissions;
mod postgres_to_mysql;
mod scan;
mod schemas;
mod secured;
mod settings;
mod verbs;
mod zones;
