//! The Chinook sample, a music shop of eleven tables, for either engine. Where its files are not at hand (`DROVER_CHINOOK` and
//! `DROVER_CHINOOK_MYSQL` name them) a generated set of the same shape takes its place.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::server::{Dialect, Server};
use crate::{mysql, scripts};

/// How many tables it has.
pub const TABLES: usize = 11;

/// The file of the sample, if there is one.
fn sample(variable: &str, name: &str) -> Option<PathBuf> {
    let given = std::env::var_os(variable).map(PathBuf::from);
    let path = given.unwrap_or_else(|| scripts::repository().join("../shared/data/chinook").join(name));
    path.is_file().then_some(path)
}

/// Creates the tables with their rows in a database, and says where they are from.
pub async fn load(server: &Server, database: &str) -> Result<&'static str> {
    let (variable, name) = match server.dialect() {
        Dialect::Postgres => ("DROVER_CHINOOK", "Chinook_PostgreSql.sql"),
        Dialect::MySql => ("DROVER_CHINOOK_MYSQL", "Chinook_MySql.sql"),
    };
    let sample = sample(variable, name);
    let text = match (&sample, server.dialect()) {
        (Some(path), _) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        (None, Dialect::Postgres) => std::fs::read_to_string(scripts::repository().join("deploy/demo/chinook.sql"))?,
        (None, Dialect::MySql) => generated(),
    };
    // The sample makes a database of its own.
    let own = ["DROP DATABASE", "CREATE DATABASE", "USE ", "\\c "];
    let lines =
        text.trim_start_matches('\u{feff}').lines().filter(|line| !own.iter().any(|word| line.starts_with(word)));
    let text = lines.collect::<Vec<_>>().join("\n");
    match server {
        Server::Postgres(server) => server.exec(database, &text).await?,
        Server::MySql(server) => {
            let mut session = server.connect(database).await?;
            mysql::run(&mut session, "SET autocommit = 0; SET NAMES utf8mb4").await?;
            mysql::run(&mut session, &text).await?;
            mysql::run(&mut session, "COMMIT").await?;
        }
    }
    Ok(if sample.is_some() { "the sample" } else { "a generated set" })
}

/// What the shop's application does meanwhile.
pub fn changes(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Postgres => {
            "UPDATE track SET unit_price = unit_price + 0.01, composer = NULL WHERE track_id % 7 = 0;
            DELETE FROM invoice_line WHERE invoice_line_id % 11 = 0; UPDATE artist SET name = name || ' ♫' WHERE artist_id < 50;
            INSERT INTO playlist VALUES (1000, 'Größtes 🐑'); INSERT INTO playlist_track SELECT 1000, track_id FROM track WHERE track_id < 99;
            UPDATE customer SET email = lower(email), fax = NULL; UPDATE playlist SET playlist_id = 2000 WHERE playlist_id = 18 AND
                NOT EXISTS (SELECT FROM playlist_track p WHERE p.playlist_id = 18)"
        }
        Dialect::MySql => {
            "UPDATE `Track` SET `UnitPrice` = `UnitPrice` + 0.01, `Composer` = NULL WHERE `TrackId` % 7 = 0;
            DELETE FROM `InvoiceLine` WHERE `InvoiceLineId` % 11 = 0; UPDATE `Artist` SET `Name` = concat(`Name`, ' ♫') WHERE `ArtistId` < 50;
            INSERT INTO `Playlist` VALUES (1000, 'Größtes'); INSERT INTO `PlaylistTrack` SELECT 1000, `TrackId` FROM `Track` WHERE `TrackId` < 99;
            UPDATE `Customer` SET `Email` = lower(`Email`), `Fax` = NULL; UPDATE `Invoice` SET `InvoiceDate` = NOW() WHERE `InvoiceId` % 5 = 0"
        }
    }
}

/// A shop of the sample's shape, with invented rows.
fn generated() -> String {
    let series = |last| Dialect::MySql.series(last);
    let person = "`Address` NVARCHAR(70), `City` NVARCHAR(40), `State` NVARCHAR(40), `Country` NVARCHAR(40), `PostalCode` NVARCHAR(10),
        `Phone` NVARCHAR(24), `Fax` NVARCHAR(24)";
    format!(
        "CREATE TABLE `Artist` (`ArtistId` INT NOT NULL, `Name` NVARCHAR(120), CONSTRAINT `PK_Artist` PRIMARY KEY (`ArtistId`));
        CREATE TABLE `Album` (`AlbumId` INT NOT NULL PRIMARY KEY, `Title` NVARCHAR(160) NOT NULL, `ArtistId` INT NOT NULL);
        CREATE TABLE `Employee` (`EmployeeId` INT NOT NULL PRIMARY KEY, `LastName` NVARCHAR(20) NOT NULL, `FirstName` NVARCHAR(20) NOT NULL,
            `Title` NVARCHAR(30), `ReportsTo` INT, `BirthDate` DATETIME, `HireDate` DATETIME, {person}, `Email` NVARCHAR(60));
        CREATE TABLE `Customer` (`CustomerId` INT NOT NULL PRIMARY KEY, `FirstName` NVARCHAR(40) NOT NULL, `LastName` NVARCHAR(20) NOT NULL,
            `Company` NVARCHAR(80), {person}, `Email` NVARCHAR(60) NOT NULL, `SupportRepId` INT);
        CREATE TABLE `Genre` (`GenreId` INT NOT NULL PRIMARY KEY, `Name` NVARCHAR(120));
        CREATE TABLE `MediaType` (`MediaTypeId` INT NOT NULL PRIMARY KEY, `Name` NVARCHAR(120));
        CREATE TABLE `Invoice` (`InvoiceId` INT NOT NULL PRIMARY KEY, `CustomerId` INT NOT NULL, `InvoiceDate` DATETIME NOT NULL,
            `BillingCity` NVARCHAR(40), `Total` NUMERIC(10,2) NOT NULL);
        CREATE TABLE `Track` (`TrackId` INT NOT NULL PRIMARY KEY, `Name` NVARCHAR(200) NOT NULL, `AlbumId` INT, `MediaTypeId` INT NOT NULL,
            `GenreId` INT, `Composer` NVARCHAR(220), `Milliseconds` INT NOT NULL, `Bytes` INT, `UnitPrice` NUMERIC(10,2) NOT NULL);
        CREATE TABLE `InvoiceLine` (`InvoiceLineId` INT NOT NULL PRIMARY KEY, `InvoiceId` INT NOT NULL, `TrackId` INT NOT NULL,
            `UnitPrice` NUMERIC(10,2) NOT NULL, `Quantity` INT NOT NULL);
        CREATE TABLE `Playlist` (`PlaylistId` INT NOT NULL PRIMARY KEY, `Name` NVARCHAR(120));
        CREATE TABLE `PlaylistTrack` (`PlaylistId` INT NOT NULL, `TrackId` INT NOT NULL, PRIMARY KEY (`PlaylistId`, `TrackId`));
        INSERT INTO `Artist` SELECT i, concat('Artist ', i) FROM {} i;
        INSERT INTO `Album` SELECT i, concat('Album ', i, ' ♫'), i * 7 % 275 + 1 FROM {} i;
        INSERT INTO `Employee` (`EmployeeId`, `LastName`, `FirstName`, `ReportsTo`, `BirthDate`) SELECT i, concat('Last ', i),
            concat('First ', i), nullif(i DIV 2, 0), '1960-01-01' + INTERVAL i * 400 DAY FROM {} i;
        INSERT INTO `Customer` (`CustomerId`, `FirstName`, `LastName`, `City`, `Fax`, `Email`, `SupportRepId`) SELECT i,
            concat('First ', i), concat('Last ', i), concat('City ', i % 50), '+1', concat('C', i, '@example.org'), i % 8 + 1 FROM {} i;
        INSERT INTO `Genre` SELECT i, concat('Genre ', i) FROM {} i;
        INSERT INTO `MediaType` SELECT i, concat('Type ', i) FROM {} i;
        INSERT INTO `Invoice` SELECT i, i % 59 + 1, '2021-01-01' + INTERVAL i * 4 DAY, concat('City ', i % 50), i % 20 + 0.99 FROM {} i;
        INSERT INTO `Track` SELECT i, concat('Track ', i), i % 347 + 1, i % 5 + 1, i % 25 + 1,
            CASE WHEN i % 3 > 0 THEN concat('Composer ', i % 600) END, 200000 + i * 61 % 150000, i * 3001, 0.99 FROM {} i;
        INSERT INTO `InvoiceLine` SELECT i, i % 412 + 1, i * 13 % 3503 + 1, 0.99, 1 FROM {} i;
        INSERT INTO `Playlist` SELECT i, concat('Playlist ', i) FROM {} i;
        INSERT INTO `PlaylistTrack` SELECT i % 18 + 1, i DIV 18 + 1 FROM {} i;
        ALTER TABLE `Album` ADD CONSTRAINT `FK_AlbumArtistId` FOREIGN KEY (`ArtistId`) REFERENCES `Artist` (`ArtistId`);
        ALTER TABLE `Employee` ADD CONSTRAINT `FK_EmployeeReportsTo` FOREIGN KEY (`ReportsTo`) REFERENCES `Employee` (`EmployeeId`);
        ALTER TABLE `Customer` ADD CONSTRAINT `FK_CustomerRep` FOREIGN KEY (`SupportRepId`) REFERENCES `Employee` (`EmployeeId`);
        ALTER TABLE `Invoice` ADD CONSTRAINT `FK_InvoiceCustomerId` FOREIGN KEY (`CustomerId`) REFERENCES `Customer` (`CustomerId`);
        ALTER TABLE `Track` ADD CONSTRAINT `FK_TrackAlbumId` FOREIGN KEY (`AlbumId`) REFERENCES `Album` (`AlbumId`);
        ALTER TABLE `InvoiceLine` ADD CONSTRAINT `FK_LineTrackId` FOREIGN KEY (`TrackId`) REFERENCES `Track` (`TrackId`);
        ALTER TABLE `PlaylistTrack` ADD CONSTRAINT `FK_ListTrackId` FOREIGN KEY (`TrackId`) REFERENCES `Track` (`TrackId`);",
        series(275),
        series(347),
        series(8),
        series(59),
        series(25),
        series(5),
        series(412),
        series(3503),
        series(2240),
        series(18),
        series(8714),
    )
}
