-- SPDX-License-Identifier: Apache-2.0
-- Who may do what with the history, on a ClickHouse server.  docs/how-to/set-up-clickhouse.md runs
-- it.  Every statement is harmless when repeated.

-- What a consumer does: make the database and its tables, follow their declarations, insert.
CREATE ROLE IF NOT EXISTS hookline_writer;
GRANT CREATE DATABASE, CREATE TABLE, CREATE VIEW ON hookline.* TO hookline_writer;
GRANT ALTER ADD COLUMN, ALTER MODIFY COLUMN, ALTER COMMENT COLUMN, ALTER TTL, ALTER MODIFY COMMENT, ALTER VIEW MODIFY QUERY ON hookline.* TO hookline_writer;
-- It compares what is there with what should be.
GRANT SHOW TABLES, SHOW COLUMNS ON hookline.* TO hookline_writer;
GRANT SELECT ON system.columns TO hookline_writer;
GRANT SELECT ON system.tables TO hookline_writer;
-- It reads no rows, but may ask which batches are there already.
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.flows TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.packets TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.sockets TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.dns TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.tls TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.ledger TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.deliveries TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.interfaces TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.dead_letters TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.alerts TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.rules TO hookline_writer;
GRANT INSERT, SELECT(time, node, run, seq) ON hookline.drops TO hookline_writer;
-- It adds to the rollups, and the views that do so have its rights and read what they add up.
GRANT SELECT(interface, direction, src_addr, dst_addr, src_port, dst_port, protocol, ethertype, tcp_flags, packets, bytes, command, unit) ON hookline.flows TO hookline_writer;
GRANT INSERT ON hookline.flows_1m TO hookline_writer;
GRANT INSERT, SELECT ON hookline.edges_1d TO hookline_writer;
GRANT INSERT ON hookline.addresses_1d TO hookline_writer;

-- What people and dashboards do: ask.
CREATE ROLE IF NOT EXISTS hookline_reader;
GRANT SELECT ON hookline.flows TO hookline_reader;
GRANT SELECT ON hookline.packets TO hookline_reader;
GRANT SELECT ON hookline.sockets TO hookline_reader;
GRANT SELECT ON hookline.dns TO hookline_reader;
GRANT SELECT ON hookline.tls TO hookline_reader;
GRANT SELECT ON hookline.ledger TO hookline_reader;
GRANT SELECT ON hookline.deliveries TO hookline_reader;
GRANT SELECT ON hookline.interfaces TO hookline_reader;
GRANT SELECT ON hookline.dead_letters TO hookline_reader;
GRANT SELECT ON hookline.alerts TO hookline_reader;
GRANT SELECT ON hookline.rules TO hookline_reader;
GRANT SELECT ON hookline.drops TO hookline_reader;
GRANT SELECT ON hookline.flows_1m TO hookline_reader;
GRANT SELECT ON hookline.edges_1d TO hookline_reader;
GRANT SELECT ON hookline.addresses_1d TO hookline_reader;
-- 2: clients may choose formats and limits, but nothing is written, whatever else is granted.
CREATE SETTINGS PROFILE IF NOT EXISTS hookline_reader SETTINGS readonly = 2 TO hookline_reader;

-- Nobody's password has this hash; ALTER USER gives them one, or a certificate.
CREATE USER IF NOT EXISTS hookline_consumer
    IDENTIFIED WITH sha256_hash BY '0000000000000000000000000000000000000000000000000000000000000000'
    DEFAULT ROLE hookline_writer;
CREATE USER IF NOT EXISTS hookline_viewer
    IDENTIFIED WITH sha256_hash BY '0000000000000000000000000000000000000000000000000000000000000000'
    DEFAULT ROLE hookline_reader;
GRANT hookline_writer TO hookline_consumer;
GRANT hookline_reader TO hookline_viewer;
