-- A music shop, generated: the eleven tables of the well-known Chinook sample, with invented rows. Taken when the sample itself
-- is not at hand (DROVER_CHINOOK names its file).
CREATE TABLE artist (artist_id int PRIMARY KEY, name varchar(120));
CREATE TABLE album (album_id int PRIMARY KEY, title varchar(160) NOT NULL, artist_id int NOT NULL);
CREATE TABLE employee (employee_id int PRIMARY KEY, last_name varchar(20) NOT NULL, first_name varchar(20) NOT NULL, title varchar(30),
    reports_to int, birth_date timestamp, hire_date timestamp, address varchar(70), city varchar(40), state varchar(40),
    country varchar(40), postal_code varchar(10), phone varchar(24), fax varchar(24), email varchar(60));
CREATE TABLE customer (customer_id int PRIMARY KEY, first_name varchar(40) NOT NULL, last_name varchar(20) NOT NULL, company varchar(80),
    address varchar(70), city varchar(40), state varchar(40), country varchar(40), postal_code varchar(10), phone varchar(24),
    fax varchar(24), email varchar(60) NOT NULL, support_rep_id int);
CREATE TABLE genre (genre_id int PRIMARY KEY, name varchar(120));
CREATE TABLE media_type (media_type_id int PRIMARY KEY, name varchar(120));
CREATE TABLE invoice (invoice_id int PRIMARY KEY, customer_id int NOT NULL, invoice_date timestamp NOT NULL, billing_address varchar(70),
    billing_city varchar(40), billing_state varchar(40), billing_country varchar(40), billing_postal_code varchar(10),
    total numeric(10,2) NOT NULL);
CREATE TABLE track (track_id int PRIMARY KEY, name varchar(200) NOT NULL, album_id int, media_type_id int NOT NULL, genre_id int,
    composer varchar(220), milliseconds int NOT NULL, bytes int, unit_price numeric(10,2) NOT NULL);
CREATE TABLE invoice_line (invoice_line_id int PRIMARY KEY, invoice_id int NOT NULL, track_id int NOT NULL,
    unit_price numeric(10,2) NOT NULL, quantity int NOT NULL);
CREATE TABLE playlist (playlist_id int PRIMARY KEY, name varchar(120));
CREATE TABLE playlist_track (playlist_id int, track_id int, PRIMARY KEY (playlist_id, track_id));

INSERT INTO artist SELECT i, 'Artist ' || i FROM generate_series(1, 275) i;
INSERT INTO album SELECT i, 'Album ' || i || ' ♫', i * 7 % 275 + 1 FROM generate_series(1, 347) i;
INSERT INTO employee SELECT i, 'Last ' || i, 'First ' || i, 'Agent', nullif(i / 2, 0), timestamp '1960-01-01' + i * interval '400 days',
    timestamp '2002-05-01' + i * interval '30 days', i || ' Long Road', 'Calgary', 'AB', 'Canada', 'T2P 5M' || i, NULL, NULL,
    'e' || i || '@example.org' FROM generate_series(1, 8) i;
INSERT INTO customer SELECT i, 'First ' || i, 'Last ' || i, CASE WHEN i % 5 = 0 THEN 'Company ' || i END, i || ' Short Street',
    'City ' || i % 50, NULL, 'Country ' || i % 24, i * 97, '+1 555 ' || i, NULL, 'c' || i || '@example.org', i % 8 + 1
    FROM generate_series(1, 59) i;
INSERT INTO genre SELECT i, 'Genre ' || i FROM generate_series(1, 25) i;
INSERT INTO media_type SELECT i, 'Type ' || i FROM generate_series(1, 5) i;
INSERT INTO invoice SELECT i, i % 59 + 1, timestamp '2021-01-01' + i * interval '4 days', i || ' Short Street', 'City ' || i % 50, NULL,
    'Country ' || i % 24, i * 97 % 99999, i % 20 + 0.99 FROM generate_series(1, 412) i;
INSERT INTO track SELECT i, 'Track ' || i, i % 347 + 1, i % 5 + 1, i % 25 + 1, CASE WHEN i % 3 > 0 THEN 'Composer ' || i % 600 END,
    200000 + i * 61 % 150000, i * 3001, CASE WHEN i % 17 = 0 THEN 1.99 ELSE 0.99 END FROM generate_series(1, 3503) i;
INSERT INTO invoice_line SELECT i, i % 412 + 1, i * 13 % 3503 + 1, 0.99, 1 FROM generate_series(1, 2240) i;
INSERT INTO playlist SELECT i, 'Playlist ' || i FROM generate_series(1, 18) i;
INSERT INTO playlist_track SELECT i % 18 + 1, i / 18 + 1 FROM generate_series(0, 8714) i;

ALTER TABLE album ADD FOREIGN KEY (artist_id) REFERENCES artist;
ALTER TABLE employee ADD FOREIGN KEY (reports_to) REFERENCES employee;
ALTER TABLE customer ADD FOREIGN KEY (support_rep_id) REFERENCES employee;
ALTER TABLE invoice ADD FOREIGN KEY (customer_id) REFERENCES customer;
ALTER TABLE track ADD FOREIGN KEY (album_id) REFERENCES album, ADD FOREIGN KEY (media_type_id) REFERENCES media_type,
    ADD FOREIGN KEY (genre_id) REFERENCES genre;
ALTER TABLE invoice_line ADD FOREIGN KEY (invoice_id) REFERENCES invoice, ADD FOREIGN KEY (track_id) REFERENCES track;
ALTER TABLE playlist_track ADD FOREIGN KEY (playlist_id) REFERENCES playlist, ADD FOREIGN KEY (track_id) REFERENCES track;
CREATE INDEX album_artist_id_idx ON album (artist_id);
CREATE INDEX invoice_customer_id_idx ON invoice (customer_id);
CREATE INDEX invoice_line_invoice_id_idx ON invoice_line (invoice_id);
CREATE INDEX invoice_line_track_id_idx ON invoice_line (track_id);
CREATE INDEX playlist_track_track_id_idx ON playlist_track (track_id);
CREATE INDEX track_album_id_idx ON track (album_id);
