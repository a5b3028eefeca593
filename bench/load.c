/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open loop of HTTP requests: so many a second, whether or not those before were answered.
 *
 *	load ADDRESS PORT RATE CONNECTIONS WARM_SECONDS SECONDS keep|close
 *
 * 1. Request n is due at the start plus n / RATE.  It goes out as soon as it is due and a
 *    connection is free: one of CONNECTIONS that stay, or with `close` one made for it.
 * 2. Its latency counts from when it was due, so that what waits in a queue shows, be it here.
 *    A client that waits for an answer before it asks again would leave that out.
 * 3. What is due in the measured seconds, which come after the warm ones, is in the histogram.
 *    What has no answer when they end counts as answered then: too good, but not left out.
 * 4. A RATE of 0 is a closed loop: each free connection asks at once, and latency counts from then.
 *
 * With `percentiles` as its only argument it reads nanoseconds, one a line, and tells what the
 * histogram makes of them.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS	 1000000000LL
#define MOST_CONNECTIONS 4096
/* Of those that are due at once, so many go out before answers are looked for. */
#define BURST 16
/* An answer with its header; ours are of some 400 bytes. */
#define ANSWER_BYTES 4096
/* A value is in a bucket no wider than a 128th of it. */
#define BITS	7
#define BUCKETS ((64 - BITS + 1) << BITS)

static uint64_t buckets[BUCKETS];
static uint64_t counted, longest_ns;

static unsigned int bucket_of(uint64_t ns)
{
	int shift;

	if (ns < 1 << BITS)
		return ns;
	shift = 63 - BITS - __builtin_clzll(ns);
	return (shift << BITS) + (ns >> shift);
}

/* The highest value that is in the bucket. */
static uint64_t bound_of(unsigned int bucket)
{
	int shift = (bucket >> BITS) - 1;

	if (shift < 0)
		return bucket;
	return ((((uint64_t)bucket & ((1 << BITS) - 1)) + (1 << BITS) + 1) << shift) - 1;
}

static void count(uint64_t ns)
{
	buckets[bucket_of(ns)]++;
	counted++;
	if (ns > longest_ns)
		longest_ns = ns;
}

/* The smallest bound that so many of a thousand do not exceed. */
static uint64_t per_mille(unsigned int share)
{
	uint64_t wanted = (counted * share + 999) / 1000, below = 0;

	for (unsigned int bucket = 0; bucket < BUCKETS; bucket++) {
		below += buckets[bucket];
		if (below >= wanted && below)
			return bound_of(bucket) < longest_ns ? bound_of(bucket) : longest_ns;
	}
	return 0;
}

static void tell_percentiles(void)
{
	printf("\"counted\": %llu, \"p50_ns\": %llu, \"p99_ns\": %llu, \"p999_ns\": %llu, "
	       "\"longest_ns\": %llu}\n",
	       (unsigned long long)counted, (unsigned long long)per_mille(500),
	       (unsigned long long)per_mille(990), (unsigned long long)per_mille(999),
	       (unsigned long long)longest_ns);
}

struct connection {
	int fd;
	bool is_sent;
	size_t bytes; /* of the answer, so far */
	int64_t due_ns;
	bool is_answered; /* and waits for the server to close */
	char answer[ANSWER_BYTES];
};

static struct connection connections[MOST_CONNECTIONS];
static struct connection *idle[MOST_CONNECTIONS];
static int idle_count;
static int epoll_fd;
static struct sockaddr_in server;
static char request[256];
static size_t request_bytes;
static bool closes;
static int64_t counts_from_ns, ends_ns;
static uint64_t answered, failed;

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND_NS + now.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void open_connection(struct connection *one, bool waits)
{
	struct epoll_event wanted = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = one};
	int yes = 1;

	one->fd = socket(AF_INET, SOCK_STREAM | (waits ? 0 : SOCK_NONBLOCK), 0);
	if (one->fd < 0)
		die("socket");
	setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (connect(one->fd, (struct sockaddr *)&server, sizeof(server)) && errno != EINPROGRESS)
		die("connect");
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->fd, &wanted))
		die("epoll_ctl");
}

static void ask(struct connection *one)
{
	one->is_sent =
		send(one->fd, request, request_bytes, MSG_NOSIGNAL) == (ssize_t)request_bytes;
	if (!one->is_sent && errno != EAGAIN && errno != ENOTCONN)
		die("send");
}

static void begin(struct connection *one, int64_t due_ns)
{
	one->due_ns = due_ns;
	one->bytes = 0;
	one->is_sent = one->is_answered = false;
	if (closes)
		open_connection(one, false);
	else
		ask(one);
}

static void end(struct connection *one)
{
	if (closes)
		close(one->fd);
	one->due_ns = 0;
	idle[idle_count++] = one;
}

static void take_answer(struct connection *one)
{
	answered++;
	one->is_answered = true;
	failed += strncmp(one->answer, "HTTP/1.1 200 ", 13) != 0;
	if (one->due_ns >= counts_from_ns && one->due_ns < ends_ns)
		count(now_ns() - one->due_ns);
}

/* Whether the answer is here, to its last byte. */
static bool is_whole(struct connection *one)
{
	char *body, *length;

	one->answer[one->bytes] = 0;
	body = strstr(one->answer, "\r\n\r\n");
	length = strcasestr(one->answer, "\r\nContent-Length:");
	if (!body || !length || length > body)
		return false;
	return one->bytes >= (size_t)(body + 4 - one->answer) + strtoul(length + 17, NULL, 10);
}

static void receive(struct connection *one)
{
	for (;;) {
		ssize_t got = recv(one->fd, one->answer + one->bytes, ANSWER_BYTES - 1 - one->bytes,
				   MSG_DONTWAIT);

		if (got < 0 && errno == EAGAIN)
			return;
		if (got < 0 || (got == 0 && !(closes && one->is_answered)))
			die(got ? "receive" : "the server closed a connection before it answered");
		if (got == 0)
			return end(one);
		one->bytes += got;
		if (one->is_answered || !is_whole(one))
			continue;
		take_answer(one);
		if (!closes)
			return end(one);
	}
}

/* Until something happens, or so many nanoseconds. */
static void await(int64_t ns)
{
	struct timespec most = {.tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS};
	struct epoll_event events[64];
	int count = epoll_pwait2(epoll_fd, events, 64, &most, NULL);

	if (count < 0 && errno != EINTR)
		die("epoll_pwait2");
	for (int at = 0; at < count; at++) {
		struct connection *one = events[at].data.ptr;

		if (!one->due_ns)
			continue; /* an idle one tells that it may be written to */
		if (!one->is_sent && events[at].events & EPOLLOUT)
			ask(one);
		if (events[at].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			receive(one);
	}
}

static void run(double rate, int count_connections, int64_t begins_ns)
{
	uint64_t number = 0;
	int64_t due_ns = begins_ns, now = begins_ns, wait_ns;

	for (int at = 0; at < count_connections; at++) {
		idle[idle_count++] = &connections[at];
		if (!closes)
			open_connection(&connections[at], true);
	}
	for (; now < ends_ns; now = now_ns()) {
		for (int burst = 0; burst < BURST && idle_count && due_ns <= now; burst++) {
			begin(idle[--idle_count], rate ? due_ns : now);
			number++;
			due_ns = rate ? begins_ns + (int64_t)(number * (SECOND_NS / rate)) : now;
		}
		wait_ns = idle_count && due_ns < ends_ns ? due_ns - now : ends_ns - now;
		await(wait_ns > 0 ? wait_ns : 0);
	}
	if (!rate)
		return;
	for (int at = 0; at < count_connections; at++)
		if (connections[at].due_ns >= counts_from_ns && !connections[at].is_answered)
			count(now - connections[at].due_ns);
	for (; due_ns < ends_ns; due_ns = begins_ns + (int64_t)(++number * (SECOND_NS / rate)))
		if (due_ns >= counts_from_ns)
			count(now - due_ns);
}

int main(int argc, char **argv)
{
	int64_t begins_ns;
	double value;

	if (argc == 2 && !strcmp(argv[1], "percentiles")) {
		while (scanf("%lf", &value) == 1)
			count(value);
		printf("{");
		tell_percentiles();
		return 0;
	}
	if (argc != 8 || atoi(argv[4]) < 1 || atoi(argv[4]) > MOST_CONNECTIONS) {
		fprintf(stderr,
			"usage: load ADDRESS PORT RATE CONNECTIONS WARM SECONDS keep|close\n");
		return 2;
	}
	server.sin_family = AF_INET;
	server.sin_port = htons(atoi(argv[2]));
	inet_pton(AF_INET, argv[1], &server.sin_addr);
	closes = !strcmp(argv[7], "close");
	request_bytes =
		snprintf(request, sizeof(request), "GET / HTTP/1.1\r\nHost: bench\r\n%s\r\n",
			 closes ? "Connection: close\r\n" : "");
	epoll_fd = epoll_create1(0);
	/* Timers of ordinary processes may be 50 microseconds late. */
	prctl(PR_SET_TIMERSLACK, 1);
	begins_ns = now_ns();
	counts_from_ns = begins_ns + atof(argv[5]) * SECOND_NS;
	ends_ns = counts_from_ns + atof(argv[6]) * SECOND_NS;
	run(atof(argv[3]), atoi(argv[4]), begins_ns);
	printf("{\"answered\": %llu, \"failed\": %llu, \"seconds\": %.6f, ",
	       (unsigned long long)answered, (unsigned long long)failed,
	       (now_ns() - begins_ns) / 1e9);
	tell_percentiles();
	return 0;
}
