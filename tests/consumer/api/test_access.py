# SPDX-License-Identifier: Apache-2.0
"""A local user without rights asks a process that runs as root: nothing but the history gets out.

The canary is a file that this process could read for anybody.  An attack counts as repelled when
it is answered with an error and the canary's content is in no answer.
"""

from pathlib import Path

import pytest

from tests.consumer.api.conftest import CANARY, FLOWS, Ask

READS_A_FILE = [
    "SELECT * FROM file('{path}', 'LineAsString')",
    "SELECT * FROM FILE('{path}', 'LineAsString')",
    "SELECT * FROM `file`('{path}', 'LineAsString')",
    "SELECT * FROM \"file\"('{path}', 'LineAsString')",
    "SELECT * FROM/**/file/*x*/(/**/'{path}', 'LineAsString')",
    "SELECT * FROM file -- comment\n('{path}', 'LineAsString')",
    "SELECT file('{path}')",
    "SELECT `file`('{path}')",
    "SELECT `fi\\x6ce`('{path}')",
    "SELECT `file\\0`('{path}')",
    "SELECT 1, (SELECT file('{path}'))",
    "WITH x AS (SELECT file('{path}') AS f) SELECT * FROM x",
    "WITH file('{path}') AS x SELECT x",
    "SELECT 1 WHERE file('{path}') LIKE 'canary%'",
    "SELECT number FROM numbers(1) ORDER BY file('{path}')",
    "SELECT count() FROM flows GROUP BY file('{path}')",
    "SELECT count() FROM flows HAVING file('{path}') != ''",
    "SELECT if(1, file('{path}'), '')",
    "SELECT 1 UNION ALL SELECT length(file('{path}'))",
    "SELECT * FROM (SELECT * FROM file('{path}', 'LineAsString'))",
    "SELECT * FROM view(SELECT file('{path}'))",
    "SELECT * FROM flows WHERE node IN (SELECT * FROM file('{path}', 'LineAsString'))",
    "SELECT 1 IN file('{path}', 'TSV', 'a UInt8')",
    "SELECT * FROM numbers(1) LIMIT length(file('{path}'))",
    "SELECT arrayMap(x -> file(x), ['{path}'])",
    # A function passed by its name, which no parenthesis follows.
    "SELECT arrayMap(file, ['{path}'])",
    "SELECT arrayMap(`file`, ['{path}'])",
    "SELECT arrayMap(FILE, ['{path}'])",
    # The syntax tree does not show what APPLY applies, nor what SHOW filters by.
    "SELECT * APPLY file FROM (SELECT '{path}' AS x)",
    "SELECT * APPLY(x -> file(x)) FROM (SELECT '{path}' AS x)",
    "SELECT COLUMNS('x') APPLY file FROM (SELECT '{path}' AS x)",
    "SHOW TABLES FROM system WHERE file('{path}') LIKE 'canary%'",
    "SHOW COLUMNS FROM flows WHERE file('{path}') LIKE 'canary%'",
    "SHOW TABLES WHERE arrayExists(file, ['{path}'])",
    # A structure may hold an expression.
    "SELECT b FROM values('a UInt8, b String ALIAS file(\\'{path}\\')', 1)",
    "SELECT b FROM generateRandom('a UInt8, b String ALIAS file(\\'{path}\\')') LIMIT 1",
    "SELECT b FROM null('a UInt8, b String ALIAS file(\\'{path}\\')')",
    "SELECT * FROM format('LineAsString', file('{path}'))",
    "SELECT * FROM eval('SELECT file(\\'{path}\\')')",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT file('{path}')))",
    # The engine's default database takes paths for tables.
    "SELECT * FROM default.`{path}`",
    "SELECT * FROM `default`.`{path}`",
    "SELECT 1 IN default.`{path}`",
    "SELECT * FROM `{path}`",
    "SELECT * FROM '{path}'",
    "EXISTS TABLE default.`{path}`",
    "SHOW CREATE TABLE default.`{path}`",
    # Describing needs no right at all.
    "DESCRIBE TABLE file('{path}')",
    "DESC file('{path}', 'JSONEachRow')",
    "DESCRIBE TABLE default.`{path}`",
    "EXPLAIN SELECT file('{path}')",
    "EXPLAIN QUERY TREE SELECT file('{path}')",
    "EXPLAIN PIPELINE SELECT * FROM file('{path}', 'LineAsString')",
    "EXPLAIN SYNTAX SELECT file('{path}')",
    "EXPLAIN AST SELECT file('{path}')",
    "EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:1', 'a', 'b', 'c') COLUMNS (a String)",
    "EXPLAIN ESTIMATE SELECT file('{path}')",
    # Settings that name files.
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '{path}'",
    "SELECT 1 FORMAT Protobuf SETTINGS format_schema = '{path}:M'",
    "SELECT 1 SETTINGS format_schema = '{path}:M' FORMAT CapnProto",
    "SELECT 1 SETTINGS output_format_schema = '{path}' FORMAT TSV",
    "SELECT 1 SETTINGS dialect = 'kusto'",
    "SELECT * FROM (SELECT file('{path}') SETTINGS readonly = 0)",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT * FROM input('a String')",
    "SELECT * FROM executable('cat {path}', 'TSV', 'a String')",
    "SELECT * FROM Python(open('{path}'))",
    "SELECT * FROM sqlite('{path}', 't')",
    "SELECT * FROM filesystem('{path}')",
    "SELECT * FROM fileCluster('default', '{path}')",
    "SELECT catboostEvaluate('{path}', 1)",
    "SELECT structureToProtobufSchema('a ' || file('{path}'))",
    "SELECT 1; SELECT file('{path}')",
    "SELECT 1\n;\nSELECT file('{path}')",
    "FROM file('{path}', 'LineAsString') SELECT *",
    "SELECT * FROM file('{path}', 'LineAsString') |> SELECT *",
    "(SELECT file('{path}'))",
    "SELECT 1 PARALLEL WITH SELECT file('{path}')",
    "EXECUTE AS default SELECT file('{path}')",
    "SELECT CAST(file('{path}') AS String)",
    "SELECT file('{path}')::String",
    "SELECT [file('{path}')][1]",
    "SELECT CASE WHEN 1 THEN file('{path}') END",
    "SELECT sum(length(file('{path}'))) OVER w FROM numbers(1) WINDOW w AS (ORDER BY number)",
    "SELECT sum(1) OVER w FROM numbers(1) WINDOW w AS (ORDER BY file('{path}'))",
    "SELECT 1 AS x ORDER BY x WITH FILL FROM length(file('{path}')) TO 2",
    "SELECT number FROM numbers(1) ORDER BY number WITH FILL INTERPOLATE (number AS file('{path}'))",
    "SELECT * REPLACE (file('{path}') AS x) FROM (SELECT 1 AS x)",
    "WITH RECURSIVE r AS (SELECT file('{path}') AS f UNION ALL SELECT f FROM r) SELECT * FROM r",
    "SELECT 1 FROM numbers(1) JOIN file('{path}', 'LineAsString') AS f ON 1 = 1",
    "SELECT x FROM numbers(1) ARRAY JOIN [file('{path}')] AS x",
    "SELECT 1 FROM numbers(1) PREWHERE file('{path}') != ''",
    "SELECT 1 QUALIFY file('{path}') != ''",
    "SELECT DISTINCT ON (file('{path}')) 1",
    "SELECT 1 LIMIT 1 BY file('{path}')",
    "SELECT quantile(length(file('{path}')))(1)",
]
CHANGES_SOMETHING = [
    "INSERT INTO flows (node) VALUES ('x')",
    "insert into flows (node) select 'x'",
    "/* x */ INSERT INTO flows (node) SELECT 'x'",
    "WITH x AS (SELECT 1) INSERT INTO flows (packets) SELECT * FROM x",
    "INSERT INTO FUNCTION file('{path}', 'TSV', 'a String') SELECT 'overwritten'",
    "INSERT INTO flows (node) FROM INFILE '{path}' FORMAT LineAsString",
    "SELECT 'x' INTO OUTFILE '{path}.out'",
    "SELECT 'x' into/**/outfile '{path}.out' TRUNCATE",
    "SELECT 'x' INTO OUTFILE '{path}.out' AND STDOUT",
    "EXPLAIN SELECT 1 INTO OUTFILE '{path}.out'",
    "EXPLAIN AST SELECT 1 INTO OUTFILE '{path}.out'",
    "SHOW TABLES INTO OUTFILE '{path}.out'",
    "SELECT 'x' INTO OUTFILE '{path}.out' FORMAT TSV SETTINGS max_threads = 1",
    "CREATE TABLE x (a UInt8) ENGINE = Memory",
    "CREATE TABLE x ENGINE = File(TSV, '{path}.out') AS SELECT 1",
    "CREATE TEMPORARY TABLE x (a UInt8)",
    "CREATE VIEW v AS SELECT file('{path}')",
    "CREATE MATERIALIZED VIEW v ENGINE = Memory AS SELECT 1",
    "CREATE FUNCTION f AS x -> file(x)",
    "CREATE DATABASE d ENGINE = Filesystem('/')",
    "CREATE DICTIONARY d (a String) PRIMARY KEY a SOURCE(FILE(path '{path}')) LAYOUT(FLAT())",
    "CREATE NAMED COLLECTION c AS a = 1",
    "CREATE USER u",
    "GRANT ALL ON *.* TO default",
    "DROP TABLE flows",
    "DROP DATABASE hookline",
    "TRUNCATE TABLE flows",
    "RENAME TABLE flows TO gone",
    "EXCHANGE TABLES flows AND packets",
    "DETACH TABLE flows",
    "ATTACH TABLE x (a UInt8) ENGINE = Memory",
    "ALTER TABLE flows DELETE WHERE 1",
    "ALTER TABLE flows DROP PARTITION '2026-01-01'",
    "DELETE FROM flows WHERE 1",
    "UPDATE flows SET bytes = 0 WHERE 1",
    "OPTIMIZE TABLE flows FINAL",
    "BACKUP TABLE flows TO File('{path}.out')",
    "RESTORE TABLE flows FROM File('{path}.out')",
    "SYSTEM SHUTDOWN",
    "SYSTEM STOP MERGES",
    "SYSTEM FLUSH LOGS",
    "KILL QUERY WHERE 1",
    "KILL QUERY WHERE 1 SYNC",
    "SET readonly = 0",
    "SET max_memory_usage = 0",
    "SET PROFILE default",
    "USE system",
    "BEGIN TRANSACTION",
    "CHECK TABLE flows",
    "WATCH flows",
    "MOVE USER u TO local_directory",
    "UNDROP TABLE flows",
    "COPY flows TO '{path}.out'",
]
REACHES_OUT = [
    "SELECT * FROM url('http://127.0.0.1:1/', 'TSV', 'a String')",
    "DESCRIBE TABLE url('http://127.0.0.1:1/x.csv')",
    "DESC s3('http://127.0.0.1:1/x.csv')",
    "SELECT * FROM s3('http://127.0.0.1:1/x.csv')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM remoteSecure('127.0.0.1:1', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM clusterAllReplicas('default', system.one)",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'e String')",
    "SELECT * FROM redis('127.0.0.1:1', 'k', 'k String')",
    "SELECT * FROM odbc('DSN=x', 'a', 'b')",
    "SELECT * FROM jdbc('x', 'a', 'b')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:1/x', 'TSV')",
    "SELECT * FROM iceberg('http://127.0.0.1:1/')",
    "SELECT * FROM deltaLake('http://127.0.0.1:1/')",
    "SELECT * FROM azureBlobStorage('x', 'y', 'z')",
    "SELECT hasColumnInTable('127.0.0.1:1', 'u', 'p', 'd', 't', 'c')",
    "SELECT aiGenerate('x')",
    "SELECT reverseDNSQuery('127.0.0.1')",
    "SELECT joinGet('default.x', 'y', 1)",
    "SELECT * FROM dictionary('x')",
    "SELECT * FROM merge('system', 'stack.*')",
    "SELECT * FROM merge('.*', '.*')",
    "SELECT * FROM mergeTreeIndex('hookline', 'flows')",
    "SELECT * FROM loop(flows)",
    "SELECT * FROM system.stack_trace",
    "SELECT * FROM `system`.`stack_trace`",
    "SELECT 1 IN system.stack_trace",
    "SELECT * FROM system.named_collections",
    "SELECT * FROM system.zookeeper WHERE path = '/'",
    "SELECT addressToLine(toUInt64(1))",
    "SELECT logTrace('x')",
    "SELECT getOSKernelVersion()",
    "SELECT showCertificate()",
    "SELECT getClientHTTPHeader('x')",
    "SELECT * FROM fuzzJSON('{{}}')",
    "SELECT * FROM nowhere.flows",
]


@pytest.mark.parametrize("attack", READS_A_FILE)
def test_no_statement_reads_a_file(ask: Ask, canary: Path, attack: str):
    reply = ask(attack.replace("{path}", str(canary)))

    assert reply.status >= 400
    assert reply.code is not None
    assert CANARY.encode() not in reply.body


@pytest.mark.parametrize("attack", CHANGES_SOMETHING)
def test_no_statement_changes_anything(ask: Ask, canary: Path, attack: str):
    reply = ask(attack.replace("{path}", str(canary)))

    assert reply.status >= 400
    assert [path.name for path in canary.parent.iterdir()] == [canary.name]
    assert canary.read_text() == CANARY + "\n"
    assert int(ask("SELECT count() FROM flows").body) >= FLOWS


@pytest.mark.parametrize("attack", REACHES_OUT)
def test_no_statement_reaches_outside_the_history(ask: Ask, attack: str):
    assert ask(attack.replace("{{}}", "{}")).code in {"46", "60", "62", "81", "164", "497"}


@pytest.mark.parametrize(
    "url",
    [
        {"format_schema": "/etc/passwd:M", "default_format": "Protobuf"},
        {"format_template_row": "/etc/passwd", "default_format": "Template"},
        {"default_format": "Template"},
        {"default_format": "Dataframe"},
        {"dialect": "prql"},
        {"readonly": "0"},
        {"allow_introspection_functions": "1"},
        {"allow_experimental_eval_table_function": "1"},
        {"output_format_schema": "/nowhere/x"},
        {"user_files_path": "/"},
        {"database": "system"},
        {"database": "default`.`x"},
    ],
)
def test_no_parameter_of_the_url_opens_a_door(ask: Ask, url: dict[str, str]):
    assert ask("SELECT 1", **url).status >= 400


@pytest.mark.parametrize(
    "value", ["default.x", "/etc/passwd", "file", "system.stack_trace", "FILE"]
)
def test_an_identifier_parameter_names_only_what_the_text_could(ask: Ask, value: str):
    assert ask("SELECT * FROM {t:Identifier}", param_t=value).status >= 400
    assert ask("SELECT arrayMap({t:Identifier}, ['/etc/passwd'])", param_t=value).status >= 400


def test_identifier_parameters_do_not_add_up_to_a_table_elsewhere(ask: Ask):
    table = "{d:Identifier}.{t:Identifier}"

    for database, name in (("default", "passwd"), ("system", "stack_trace"), ("nowhere", "x")):
        for sql in (f"SELECT * FROM {table}", f"SELECT 1 IN {table}", f"DESCRIBE TABLE {table}"):
            assert ask(sql, param_d=database, param_t=name).status >= 400
    assert ask(f"EXISTS TABLE {table}", param_d="default", param_t="passwd").status == 403


def test_an_identifier_parameter_may_name_a_table_of_the_history(ask: Ask):
    assert ask("SELECT count() > 0 FROM {t:Identifier}", param_t="flows").body == b"1\n"


def test_limits_are_not_lifted_by_zero_or_a_large_number(ask: Ask):
    sql = "SELECT getSetting('max_execution_time')"

    assert ask(sql).body == b"60\n"
    assert ask(sql, max_execution_time=0).body == b"600\n"
    assert ask(sql, max_execution_time=1e9).body == b"600\n"
    assert ask(sql, max_execution_time=5).body == b"5\n"
    assert ask(sql + " SETTINGS max_execution_time = 0").body == b"600\n"


HARMLESS = [
    "SELECT 1",
    "select count(), sumIf(bytes, protocol = 6), quantile(0.9)(bytes), uniqExact(src_addr) from flows",
    "WITH top AS (SELECT dst_port, sum(bytes) AS b FROM flows GROUP BY 1) SELECT * FROM top",
    "SELECT toStartOfMinute(time) AS t, sum(bytes) FROM flows GROUP BY t ORDER BY t WITH FILL",
    "SELECT * EXCEPT (node) FROM flows LIMIT 1",
    "SELECT f.node FROM flows AS f LEFT JOIN packets AS p USING (node) LIMIT 1",
    "SELECT IPv6NumToString(src_addr), cutIPv6(src_addr, 0, 0) FROM flows LIMIT 1",
    "SELECT row_number() OVER (PARTITION BY node ORDER BY time) FROM flows LIMIT 1",
    "SELECT arrayMap(x -> x + 1, [1, 2]), map('a', 1)['a'], (1, 2).1",
    "SELECT 'file(''/etc/passwd'')', 'INTO OUTFILE', '-- ; DROP TABLE flows', 'default.x'",
    "SELECT number FROM numbers(3) UNION ALL SELECT number FROM system.numbers LIMIT 1",
    "SELECT name FROM system.tables WHERE database = 'hookline'",
    "SELECT name, type FROM system.columns WHERE table = 'flows'",
    "SELECT name, value, readonly FROM system.settings LIMIT 1",
    "SELECT name FROM system.functions LIMIT 1",
    "SELECT name FROM system.databases",
    "SELECT count() FROM system.parts",
    "SELECT dummy FROM system.one",
    "SELECT table_name FROM information_schema.tables LIMIT 1",
    "SHOW TABLES",
    "SHOW TABLES LIKE 'fl%'",
    "SHOW DATABASES",
    "SHOW CREATE TABLE flows",
    "DESCRIBE TABLE flows",
    "DESCRIBE (SELECT 1)",
    "EXISTS TABLE flows",
    "EXPLAIN SELECT count() FROM flows",
    "EXPLAIN indexes = 1, json = 1 SELECT count() FROM flows WHERE time > now()",
    "SELECT 1 /* comment */ ; -- and another",
    "SELECT 1 SETTINGS max_threads = 1 FORMAT JSON",
    "(SELECT 1) EXCEPT (SELECT 2)",
]


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_only_reads_the_history_is_answered(ask: Ask, sql: str):
    reply = ask(sql)

    assert reply.status == 200, reply.body
    assert reply.code is None


def test_a_statement_is_bounded_in_length_and_depth(ask: Ask):
    assert ask("SELECT " + "1," * 140_000 + "1").code == "425"
    assert ask("SELECT " + "(" * 5_000 + "1" + ")" * 5_000).status >= 400
    assert ask("SELECT " + "1," * 100_000 + "1").code == "168"
    assert ask("SELECT 1").status == 200
