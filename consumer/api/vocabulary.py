# SPDX-License-Identifier: Apache-2.0
"""What a statement may name: functions, table functions, system tables, formats, syntax.

Everything is forbidden that is not listed here.  Functions are listed by the engine's own
categories, because there are 1,900 of them; the names come from the engine that runs, so that an
alias is judged as what it stands for, and a function that a new release adds to no category is
refused.  Each list leaves out what reads a file, opens a connection, or takes as a string a name
or an expression that we would not see.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Left out: AI, Embedded Dictionary, Internal, Introspection, Machine Learning, and the many
# without a category, which are aliases or new.
CATEGORIES = {
    "Aggregate Functions",
    "Arithmetic",
    "Arrays",
    "Bit",
    "Bitmap",
    "Comparison",
    "Conditional",
    "Dates and Times",
    "Dictionary",
    "Distance",
    "Encoding",
    "Encryption",
    "Financial",
    "Geo",
    "Geo Polygon",
    "Hash",
    "IP Address",
    "JSON",
    "Logical",
    "Map",
    "Mathematical",
    "Null",
    "NumericIndexedVector",
    "Random Number",
    "Rounding",
    "String",
    "String Replacement",
    "String Search",
    "String Splitting",
    "Time Series",
    "Time Window",
    "Tuple",
    "Type Conversion",
    "URL",
    "UUID",
}
# From the category Other, which also holds file(), joinGet() and hasColumnInTable().
OTHER = set(
    """
    FQDN MACNumToString MACStringToNum MACStringToOUI bar blockNumber blockSerializedSize blockSize
    buildId byteSize connectionId countDigits currentDatabase currentProfiles currentQueryID currentRoles
    currentSchemas currentUser defaultValueOfArgumentType defaultValueOfTypeName digits displayName
    dumpColumnStructure enabledRoles errorCodeToName finalizeAggregation formatQuery
    formatQueryOrNull formatQuerySingleLine formatQuerySingleLineOrNull formatReadableDecimalSize
    formatReadableQuantity formatReadableSize formatReadableTimeDelta getSetting
    getSettingOrDefault getSizeOfEnumType getSubcolumn globalVariable hostName identity ignore
    indexHint initialQueryID initialQueryStartTime initializeAggregation isConstant isDecimalOverflow
    lowCardinalityIndices lowCardinalityKeys materialize neighbor normalizeQuery
    normalizedQueryHash parseISO8601Duration parseReadableSize parseReadableSizeOrNull parseReadableSizeOrZero
    parseTimeDelta partitionId pgGetUserById pgTableIsVisible queryID revision rowNumberInAllBlocks rowNumberInBlock
    runningAccumulate runningDifference runningDifferenceStartingWithFirstValue serverUUID
    shardCount shardNum sleep sleepEachRow throwIf toColumnTypeName toTypeName transform uptime
    variantElement variantType version visibleWidth
    """.split()  # noqa: SIM905  # sixty names are easier to read and to sort as prose
)
# What the parser makes of syntax, and what the engine knows without listing it.
SYNTAX_FUNCTIONS = {"lambda", "untuple", "exists", "grouping", "caseWithExpression", "_CAST"}
# Not values(), null(), generateRandom(), format() and input(): the structure that they take as a
# string may hold `x String ALIAS file('/etc/shadow')`, which the engine evaluates, read-only or
# not.  Not merge(), eval(), cluster(): they take names or statements as strings.  Not fuzzJSON()
# and its kin: they fill the memory.
TABLE_FUNCTIONS = {
    "numbers",
    "numbers_mt",
    "zeros",
    "zeros_mt",
    "generate_series",
    "generateSeries",
    "primes",
    "view",
}
DATABASES = {"hookline", "system", "information_schema", "INFORMATION_SCHEMA"}
SYSTEM_TABLES = set(
    """
    aggregate_function_combinators asynchronous_metrics build_options codecs collations columns
    completions constraints contributors current_roles data_skipping_indices data_type_families
    database_engines databases detached_parts dictionaries disks enabled_roles errors events
    formats functions grants keywords licenses macros merge_tree_settings merges metrics mutations
    numbers numbers_mt one parts parts_columns primes privileges processes projection_parts
    projection_parts_columns projections replicas roles server_settings settings
    settings_profiles storage_policies table_engines table_functions tables time_zones users
    view_refreshes warnings zeros zeros_mt
    """.split()  # noqa: SIM905  # likewise
)
# Template and Protobuf read files that a setting names; the wire formats are no results.
FORBIDDEN_FORMATS = {
    "AvroConfluent",
    "CapnProto",
    "MySQLWire",
    "ODBCDriver2",
    "PostgreSQLWire",
    "Protobuf",
    "ProtobufList",
    "ProtobufSingle",
    "Template",
}
# The engine's names for the nodes of a syntax tree.  Not ColumnsApplyTransformer: the tree does
# not show what it applies.  Not Set: settings of a sub-query are applied whatever read-only says.
NODES = {
    "ArrayJoin",
    "Asterisk",
    "ColumnsExceptTransformer",
    "ColumnsListMatcher",
    "ColumnsRegexpMatcher",
    "ColumnsReplaceTransformer",
    "ColumnsReplaceTransformer::Replacement",
    "ColumnsTransformerList",
    "DescribeQuery",
    "ExistsDatabaseQuery",
    "ExistsDictionaryQuery",
    "ExistsTableQuery",
    "ExistsViewQuery",
    "Explain",
    "ExpressionList",
    "Function",
    "Identifier",
    "InterpolateElement",
    "Literal",
    "OrderByElement",
    "QualifiedAsterisk",
    "QualifiedColumnsListMatcher",
    "QualifiedColumnsRegexpMatcher",
    "SampleRatio",
    "SelectIntersectExceptQuery",
    "SelectQuery",
    "SelectWithUnionQuery",
    "ShowColumns",
    "ShowCreateDatabaseQuery",
    "ShowCreateTableQuery",
    "ShowCreateViewQuery",
    "ShowEngineQuery",
    "ShowFunctions",
    "ShowIndexes",
    "ShowProcesslistQuery",
    "ShowTables",
    "Subquery",
    "TableExpression",
    "TableIdentifier",
    "TableJoin",
    "TablesInSelectQuery",
    "TablesInSelectQueryElement",
    "WindowDefinition",
    "WindowListElement",
    "WithElement",
}
# Words before a parenthesis that are no functions.
KEYWORDS_BEFORE_PARENTHESIS = set(
    """
    ALL AND ANY AS ASOF BETWEEN BY CASE COLUMNS CUBE DISTINCT DIV ELSE EXCEPT EXISTS EXPLAIN FILL
    FILTER FROM HAVING ILIKE IN INTERPOLATE INTERSECT JOIN LEFT LIKE LIMIT MATERIALIZED MOD NOT
    OFFSET ON OR OVER PLAN PREWHERE QUALIFY REPLACE ROLLUP SELECT SETS STEP SYNTAX TABLE THEN TO
    TREE UNION USING WHEN WHERE WITH
    """.split()  # noqa: SIM905  # likewise
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The allowed and the forbidden names of the engine that runs.

    *forbidden* are functions: their bare name is refused as well, because a function may be passed
    by name, as in `arrayMap(file, ['/etc/shadow'])`.
    """

    functions: frozenset[str]
    caseless_functions: frozenset[str]
    aggregates: frozenset[str]
    caseless_aggregates: frozenset[str]
    combinators: tuple[str, ...]
    forbidden: frozenset[str]
    formats: dict[str, str]
    settings: frozenset[str]

    def allows_function(self, name: str) -> bool:
        """Tell whether *name* is an allowed function, table function or aggregate function."""
        if name in self.functions or name in SYNTAX_FUNCTIONS or name in TABLE_FUNCTIONS:
            return True
        return name.lower() in self.caseless_functions or self._is_combined_aggregate(name)

    def _is_combined_aggregate(self, name: str) -> bool:
        if name in self.aggregates or name.lower() in self.caseless_aggregates:
            return True
        return any(
            self._is_combined_aggregate(name.removesuffix(suffix))
            for suffix in self.combinators
            if name.endswith(suffix) and name != suffix
        )

    def forbids_name(self, name: str) -> bool:
        """Tell whether *name*, even alone, could stand for a function that is not allowed."""
        return name.lower() in self.forbidden


def vocabulary_from(
    *,
    functions: Iterable[dict[str, Any]],
    combinators: Iterable[str],
    formats: Iterable[str],
    settings: Iterable[str],
) -> Vocabulary:
    """Judge the engine's own lists, given as rows of its system tables."""
    rows = list(functions)
    of_name = {row["name"]: row for row in rows}
    allowed = [row for row in rows if _is_allowed(of_name.get(row["alias_to"], row))]
    caseless = [row for row in allowed if row["case_insensitive"]]
    names = frozenset(row["name"] for row in allowed)
    caseless_names = frozenset(row["name"].lower() for row in caseless)
    return Vocabulary(
        functions=names,
        caseless_functions=caseless_names,
        aggregates=frozenset(row["name"] for row in allowed if row["is_aggregate"]),
        caseless_aggregates=frozenset(
            row["name"].lower() for row in caseless if row["is_aggregate"]
        ),
        combinators=tuple(combinators),
        forbidden=frozenset(row["name"].lower() for row in rows if row["name"] not in names)
        - {name.lower() for name in names},
        formats={name.lower(): name for name in formats if name not in FORBIDDEN_FORMATS},
        settings=frozenset(settings),
    )


def _is_allowed(row: dict[str, Any]) -> bool:
    return bool({row["categories"]} & CATEGORIES) or row["name"] in OTHER
