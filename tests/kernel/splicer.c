/*
 * A filesystem of one file, served by several threads that splice: requests from the device into a pipe, replies from
 * a pipe into the device. Byte n of the file is (n >> 3) in the n & 7-th byte; what is written must be the same.
 * usage: splicer FD THREADS; exits 0 when every thread has read ENODEV, else with the number of the check that failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define ROOM (2u << 20)
#define FILE_SIZE (64ull << 20)
static int device;

static void die(int number, const char *what)
{
	fprintf(stderr, "splicer: %d: %s: %s\n", number, what, strerror(errno));
	_exit(number);
}

static void fill(char *to, uint64_t at, size_t n)
{
	for (size_t i = 0; i < n; i++, at++)
		to[i] = (char)((at >> 3) >> (8 * (at & 7)));
}

static void reply(int *pipe, char *out, uint64_t unique, int error, size_t n)
{
	struct fuse_out_header *h = (struct fuse_out_header *)out;
	size_t total = sizeof(*h) + (error ? 0 : n), at = 0;

	*h = (struct fuse_out_header){ .len = total, .error = error, .unique = unique };
	while (at < total) {
		struct iovec iov = { out + at, total - at };
		ssize_t did = vmsplice(pipe[1], &iov, 1, 0);
		if (did <= 0)
			die(2, "vmsplice");
		at += did;
	}
	ssize_t did = splice(pipe[0], NULL, device, NULL, total, 0);
	if (did != (ssize_t)total && errno != ENOENT)
		die(3, "a reply was not taken whole");
}

static void *serve(void *unused)
{
	char *in = aligned_alloc(4096, ROOM), *out = aligned_alloc(4096, ROOM), *want = malloc(ROOM);
	int requests[2], replies[2];

	if (pipe(requests) || pipe(replies) || fcntl(requests[1], F_SETPIPE_SZ, 1 << 20) < 0 ||
	    fcntl(replies[1], F_SETPIPE_SZ, 1 << 20) < 0)
		die(4, "pipe");
	for (;;) {
		ssize_t n = splice(device, NULL, requests[1], NULL, 1 << 20, 0);
		if (n < 0 && errno == ENODEV)
			return unused;
		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)sizeof(struct fuse_in_header))
			die(5, "a request came short");
		if (read(requests[0], in, n) != n)
			die(6, "the pipe does not hold the request");
		struct fuse_in_header *h = (struct fuse_in_header *)in;
		if (h->len != n)
			die(7, "more or less than one request came");
		void *body = in + sizeof(*h), *answer = out + sizeof(struct fuse_out_header);
		struct fuse_attr attr = { .ino = h->nodeid, .mode = h->nodeid == 1 ? 040755 : 0100666, .nlink = 1,
			.size = h->nodeid == 1 ? 0 : FILE_SIZE };
		int error = 0;
		size_t size = 0;
		switch (h->opcode) {
		case FUSE_INIT:
			*(struct fuse_init_out *)answer = (struct fuse_init_out){ .major = 7, .minor = 38, .max_write = 1 << 20,
				.max_pages = 256, .max_background = 64, .congestion_threshold = 48, .time_gran = 1,
				.flags = (FUSE_MAX_PAGES | FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_SPLICE_WRITE | FUSE_SPLICE_READ) &
				    ((struct fuse_init_in *)body)->flags };
			size = sizeof(struct fuse_init_out);
			break;
		case FUSE_LOOKUP: {
			struct fuse_entry_out *e = answer;
			*e = (struct fuse_entry_out){ .nodeid = 2, .attr = { .ino = 2, .mode = 0100666, .nlink = 1, .size = FILE_SIZE } };
			size = sizeof(*e);
			break;
		}
		case FUSE_GETATTR: case FUSE_SETATTR:
			*(struct fuse_attr_out *)answer = (struct fuse_attr_out){ .attr = attr };
			size = sizeof(struct fuse_attr_out);
			break;
		case FUSE_OPEN:
			*(struct fuse_open_out *)answer = (struct fuse_open_out){ .open_flags = FOPEN_DIRECT_IO };
			size = sizeof(struct fuse_open_out);
			break;
		case FUSE_READ:
			size = ((struct fuse_read_in *)body)->size;
			fill(answer, ((struct fuse_read_in *)body)->offset, size);
			break;
		case FUSE_WRITE: {
			struct fuse_write_in *w = body;
			fill(want, w->offset, w->size);
			if (memcmp(want, w + 1, w->size))
				die(8, "a WRITE carries other bytes");
			*(struct fuse_write_out *)answer = (struct fuse_write_out){ .size = w->size };
			size = sizeof(struct fuse_write_out);
			break;
		}
		case FUSE_FLUSH: case FUSE_RELEASE:
			break;
		case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_INTERRUPT:
			continue;
		default:
			error = -ENOSYS;
		}
		reply(replies, out, h->unique, error, size);
	}
}

int main(int argc, char **argv)
{
	pthread_t threads[32];
	int count = argc == 3 ? atoi(argv[2]) : 0;

	if (count < 1 || count > 32)
		return 64;
	device = atoi(argv[1]);
	for (int i = 0; i < count; i++)
		if (pthread_create(&threads[i], NULL, serve, NULL))
			return 65;
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	return 0;
}
