# SPDX-License-Identifier: Apache-2.0
"""Which settings of a request reach the engine, and within which bounds.

A setting can open a file (`format_schema`), pick another language (`dialect`) or lift a limit, so
only those listed pass.  Limits can be lowered, and raised up to a bound; zero, which means no
limit to the engine, means the bound.
"""

import re
from collections.abc import Mapping

from consumer.api.fault import READONLY, SETTING_CONSTRAINT_VIOLATION, UNKNOWN_SETTING, Fault

MIB = 1 << 20
MAX_STATEMENT_BYTES = 1 << 18  # ClickHouse's own default
# Setting, what holds when it is not given, and the most that can be asked for.
BOUNDS = {
    "max_execution_time": (60, 600),
    "max_memory_usage": (1024 * MIB, 4096 * MIB),
    "max_result_bytes": (64 * MIB, 256 * MIB),
    "max_query_size": (MIB, MIB),  # the formatted statement, which may be longer
    "max_ast_elements": (50_000, 50_000),
    "max_parser_backtracks": (1_000_000, 1_000_000),
}
_PLAIN = set(
    """
    aggregate_functions_null_for_empty any_join_distinct_right_table_keys asterisk_include_alias_columns
    bool_false_representation bool_true_representation cancel_http_readonly_queries_on_client_close
    cast_keep_nullable cast_string_to_dynamic_use_inference compile_expressions
    date_time_input_format date_time_output_format decimal_check_overflow
    empty_result_for_aggregation_by_empty_set extremes final force_index_by_date
    force_primary_key group_by_overflow_mode group_by_use_nulls join_algorithm
    join_default_strictness join_use_nulls limit max_block_size max_bytes_to_group_by
    max_bytes_to_read max_columns_to_read max_result_rows max_rows_to_group_by max_rows_to_read
    max_streaming_rows max_threads offset partial_result_on_first_cancel prefer_column_name_to_alias
    priority query_cache_ttl read_overflow_mode result_overflow_mode session_timezone
    short_circuit_function_evaluation timeout_overflow_mode totals_mode transform_null_in
    union_default_mode use_uncompressed_cache
    """.split()  # noqa: SIM905  # sixty names are easier to read as prose
)
_FAMILIES = ("output_format_", "format_csv_", "format_tsv_", "format_binary_", "optimize_", "join_")
_REACHES_OUT = re.compile(r"schema|path|template|file|dir|url|disk|storage|credential|avro|proto")


def chosen_settings(requested: Mapping[str, str], known: frozenset[str]) -> dict[str, str]:
    """The settings for a request: those it asks for and the limits.

    Raises:
        Fault: a setting does not exist or must not be changed.
    """
    requested = dict(requested)
    if requested.pop("readonly", "1") not in {"1", "2"}:
        raise Fault(READONLY, "Cannot modify 'readonly' setting in readonly mode")
    for name in requested:
        _check(name, known)
    limits = {name: str(default) for name, (default, _) in BOUNDS.items()}
    bounded = {name: _bounded(name, value) for name, value in requested.items() if name in BOUNDS}
    plain = {name: value for name, value in requested.items() if name not in BOUNDS}
    return plain | limits | bounded


def _check(name: str, known: frozenset[str]) -> None:
    if name not in known:
        raise Fault(UNKNOWN_SETTING, f"Unknown setting '{name}'")
    if name in BOUNDS or name in _PLAIN:
        return
    if name.startswith(_FAMILIES) and not _REACHES_OUT.search(name):
        return
    raise Fault(SETTING_CONSTRAINT_VIOLATION, f"Setting {name} should not be changed here")


def _bounded(name: str, value: str) -> str:
    most = BOUNDS[name][1]
    try:
        asked = float(value)
    except ValueError:
        raise Fault(
            SETTING_CONSTRAINT_VIOLATION, f"Setting {name} must be a number, not {value!r}"
        ) from None
    if not 0 < asked <= most:
        return str(most)
    return value
