# SPDX-License-Identifier: Apache-2.0
"""The values of names, TLS and drops in the history that `bench.history` makes, as its SQL.

Twenty thousand names are asked for, few of them often; one in ten answers is that there is no such
name.  Rules refuse some thousand addresses, few of them often.
"""

# Beside those of flows; each may use those before it.
SHARED = {
    "asked": "toUInt32(floor(exp(u(60) * log(20000.99))))",
    "name": (
        "if(asked <= 300, concat('service-', toString(asked), '.team-', toString(s(asked, 61) % 12),"
        " '.svc.cluster.local'), concat(['www', 'api', 'cdn', 'img'][s(asked, 62) % 4 + 1],"
        " '.site-', toString(asked), ['.com', '.net', '.org', '.io'][s(asked, 63) % 4 + 1]))"
    ),
    "code": "multiIf(is_egress, 0, h(64) % 10 = 0, 3, h(64) % 500 = 1, 2, 0)",
    "resolver": "inside(h(65) % 3)",
    "far_port": "toUInt16(32768 + h(66) % 28232)",
    "refused": "outside(s(toUInt32(floor(exp(u(67) * log(5000.99)))), 68))",
    "rule_at": "toUInt32(floor(exp(u(69) * log(30.99))))",
    "tried": "[22, 23, 445, 3389, 5060, 6379][h(70) % 6 + 1]",
}

DNS_VALUES = {
    "direction": "if(is_egress, 'egress', 'ingress')",
    "src_addr": "if(is_egress, pod_addr, resolver)",
    "dst_addr": "if(is_egress, resolver, pod_addr)",
    "src_port": "if(is_egress, far_port, 53)",
    "dst_port": "if(is_egress, 53, far_port)",
    "protocol": "17",
    "id": "h(71) % 65536",
    "is_response": "1 - is_egress",
    "response_code": "code",
    "flags": "if(is_egress, 256, 33152 + code)",
    "query_name": "name",
    "query_type": "[1, 28, 1, 28, 65][h(72) % 5 + 1]",
    "query_class": "1",
    "answers": "if(is_egress OR code != 0, 0, 1 + h(73) % 4)",
    "additionals": "1",
    "message_bytes": "28 + length(name) + if(is_egress, 0, 16 * (h(73) % 4))",
    "latency_ns": "if(is_egress, 0, toUInt64(200000 * pow(1 - u(74), -0.7)))",
}
TLS_VALUES = {
    "direction": "'egress'",
    "src_addr": "pod_addr",
    "dst_addr": "outside(s(asked, 15))",
    "src_port": "far_port",
    "dst_port": "443",
    "protocol": "6",
    "server_name": "if(h(75) % 40 = 0, '', name)",
    "alpn": "['h2,http/1.1', 'h2,http/1.1', 'http/1.1', ''][s(pod, 76) % 4 + 1]",
    "legacy_version": "771",
    "version": "if(s(pod, 77) % 30 = 0, 769, if(s(pod, 77) % 5 = 1, 771, 772))",
    "is_ech_offered": "s(pod, 78) % 3 = 0",
    "hello_bytes": "220 + s(pod, 79) % 300 + length(name) + if(h(80) % 3 = 0, 1200, 0)",
}
DROP_VALUES = {
    "direction": "'ingress'",
    "rule": "concat('rule-', toString(rule_at))",
    "verdict": "if(s(rule_at, 81) % 4 = 0, 'observed', 'refused')",
    "src_addr": "refused",
    "dst_addr": "pod_addr",
    "src_port": "far_port",
    "dst_port": "tried",
    "protocol": "6",
    "ethertype": "2048",
    "tcp_flags": "2",
    "hop_limit": "40 + h(82) % 80",
    "packets": "1",
    "bytes": "74",
    "header_bytes": "74",
    # Ethernet and IPv4 as they are, then what is random in TCP, then zeros.
    "header": (
        "toFixedString(concat(unhex('020000000001020000000002080045000000'),"
        " reinterpretAsString(toUInt16(h(83) % 65536)), unhex('00004006'),"
        " substring(reinterpretAsString(refused), 13), substring(reinterpretAsString(pod_addr), 13),"
        " reinterpretAsString(far_port), reinterpretAsString(toUInt16(tried)),"
        " reinterpretAsString(toUInt32(h(84) % 4294967296))), 96)"
    ),
}
