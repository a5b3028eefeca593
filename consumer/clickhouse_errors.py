# SPDX-License-Identifier: Apache-2.0
"""Tell what an error of ClickHouse is about: the rows, or something that passes by itself."""

from clickhouse_connect.driver.exceptions import ClickHouseError, ProgrammingError

# ClickHouse's error codes for rows that it cannot store, whoever sends them and however often.
# https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp
DATA_ERRORS = {
    6,  # CANNOT_PARSE_TEXT
    27,  # CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  # ATTEMPT_TO_READ_AFTER_EOF
    33,  # CANNOT_READ_ALL_DATA
    36,  # BAD_ARGUMENTS
    38,  # CANNOT_PARSE_DATE
    41,  # CANNOT_PARSE_DATETIME
    53,  # TYPE_MISMATCH
    69,  # ARGUMENT_OUT_OF_BOUND
    70,  # CANNOT_CONVERT_TYPE
    72,  # CANNOT_PARSE_NUMBER
    117,  # INCORRECT_DATA
    131,  # TOO_LARGE_STRING_SIZE
    321,  # VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    407,  # DECIMAL_OVERFLOW
    469,  # VIOLATED_CONSTRAINT
    691,  # UNKNOWN_ELEMENT_OF_ENUM
}
# Those that pass by themselves once the server has caught up, restarted, found its peers or got
# room.
TRANSIENT_ERRORS = {
    3,  # UNEXPECTED_END_OF_FILE
    75,  # CANNOT_WRITE_TO_FILE_DESCRIPTOR
    95,  # CANNOT_READ_FROM_SOCKET
    96,  # CANNOT_WRITE_TO_SOCKET
    159,  # TIMEOUT_EXCEEDED
    160,  # TOO_SLOW
    164,  # READONLY
    173,  # CANNOT_ALLOCATE_MEMORY
    198,  # DNS_ERROR
    201,  # QUOTA_EXCEEDED
    202,  # TOO_MANY_SIMULTANEOUS_QUERIES
    203,  # NO_FREE_CONNECTION
    209,  # SOCKET_TIMEOUT
    210,  # NETWORK_ERROR
    225,  # NO_ZOOKEEPER
    236,  # ABORTED
    241,  # MEMORY_LIMIT_EXCEEDED
    242,  # TABLE_IS_READ_ONLY
    243,  # NOT_ENOUGH_SPACE
    252,  # TOO_MANY_PARTS
    279,  # ALL_CONNECTION_TRIES_FAILED
    285,  # TOO_FEW_LIVE_REPLICAS
    286,  # UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
    319,  # UNKNOWN_STATUS_OF_INSERT
    394,  # QUERY_WAS_CANCELLED
    425,  # SYSTEM_ERROR
    439,  # CANNOT_SCHEDULE_TASK
    473,  # DEADLOCK_AVOIDED
    499,  # S3_ERROR
    677,  # THREAD_WAS_CANCELED
    733,  # TABLE_IS_BEING_RESTARTED
    735,  # QUERY_WAS_CANCELLED_BY_CLIENT
    745,  # SERVER_OVERLOADED
    749,  # TCP_CONNECTION_LIMIT_REACHED
    999,  # KEEPER_EXCEPTION
    1000,  # POCO_EXCEPTION: mostly files and sockets
    1001,  # STD_EXCEPTION: likewise, and memory
}
# TOO_MANY_PARTS has two meanings.  With these words it is about the rows: they span more days
# than ClickHouse accepts in one insert, as the times of a broken clock do.
TOO_MANY_DAYS = "partitions for single INSERT block"


def is_about_rows(error: ClickHouseError) -> bool:
    """Whether ClickHouse will never take these rows, whoever sends them."""
    return getattr(error, "code", None) in DATA_ERRORS or TOO_MANY_DAYS in str(error)


def passes(error: ClickHouseError) -> bool:
    """Whether to repeat what failed, once the server has had time."""
    code = getattr(error, "code", None)
    # Without a code it never reached ClickHouse, unless the client was used wrongly.
    return code in TRANSIENT_ERRORS or (code is None and not isinstance(error, ProgrammingError))
