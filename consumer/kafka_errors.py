# SPDX-License-Identifier: Apache-2.0
"""Which errors of Kafka no patience helps against; all others pass, as brokers come and go."""

from aiokafka import errors

# Who may do what, and how one has to say who one is, is for a human to settle; so is what one side
# cannot do at all, and a record that is damaged where it lies.
_LASTING = (
    errors.AuthenticationFailedError,
    errors.AuthenticationMethodNotSupported,
    errors.ClusterAuthorizationFailedError,
    errors.CorruptRecordException,
    errors.GroupAuthorizationFailedError,
    errors.IllegalSaslStateError,
    errors.InconsistentGroupProtocolError,
    errors.IncompatibleBrokerVersion,
    errors.InvalidCommitOffsetSizeError,
    errors.InvalidGroupIdError,
    errors.InvalidSessionTimeoutError,
    errors.InvalidTopicError,
    errors.OffsetMetadataTooLargeError,
    errors.PolicyViolationError,
    errors.SaslAuthenticationFailed,
    errors.SecurityDisabled,
    errors.TopicAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
    errors.UnsupportedCodecError,
    errors.UnsupportedSaslMechanismError,
    errors.UnsupportedVersionError,
)


def lasts(error: errors.KafkaError) -> bool:
    """Whether only a human can end *error*."""
    return isinstance(error, _LASTING)
