/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libbpf's own reader of a ring buffer: a callback that counts, and one that copies each record
 * behind the last.  It is loaded into the process that measures, which calls it through ctypes.
 *
 * What it needs of libbpf is declared here, so that its headers need not be installed.
 */
#include <stddef.h>
#include <string.h>

struct ring_buffer;
struct ring_buffer_opts;
typedef int (*ring_buffer_sample_fn)(void *ctx, void *data, size_t size);

extern struct ring_buffer *ring_buffer__new(int map_fd, ring_buffer_sample_fn sample_cb, void *ctx,
					    const struct ring_buffer_opts *opts);
extern int ring_buffer__consume(struct ring_buffer *rb);

/* Where the next record is copied to, how many are there, and for how many there is room. */
static char *end;
static int copied, most;

static int count(void *ctx, void *data, size_t size)
{
	return 0;
}

static int copy(void *ctx, void *data, size_t size)
{
	memcpy(end, data, size);
	end += size;
	/* It would go on for as long as there is more, and more is made meanwhile. */
	return ++copied < most ? 0 : -1;
}

struct ring_buffer *counting(int map_fd)
{
	return ring_buffer__new(map_fd, count, NULL, NULL);
}

struct ring_buffer *copying(int map_fd)
{
	return ring_buffer__new(map_fd, copy, NULL, NULL);
}

/*
 * Consume what is there; at most *room* records, copied to *to*, where that is wanted.  Returns the
 * number of records.
 */
int consume(struct ring_buffer *ring, void *to, int room)
{
	int consumed;

	end = to;
	most = room;
	copied = 0;
	consumed = ring_buffer__consume(ring);
	return to ? copied : consumed;
}
