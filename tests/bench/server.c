/* The smallest filesystem that can be measured: a root, one file of 1 MiB, nothing cached. With PERFUSE, through perfused.
 * `server MOUNTPOINT` mounts; `server NUMBER` serves a device it inherits. For the benchmark alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef PERFUSE
#include <perfuse.h>
#endif

enum { SIZE = 1 << 20, FRAME = SIZE + 8192 };
static char request[FRAME], data[SIZE];

static size_t answer(struct fuse_in_header *head, void *out, struct iovec *payload, int *error)
{
	struct fuse_attr attr = { .ino = head->nodeid, .nlink = 1, .blksize = 4096 };
	struct fuse_read_in *read_in = (void *)(head + 1);
	struct fuse_write_in *write_in = (void *)(head + 1);
	struct fuse_init_in *init_in = (void *)(head + 1);

	attr.mode = head->nodeid == 1 ? 040755 : 0100644;
	attr.size = head->nodeid == 1 ? 0 : SIZE;
	switch (head->opcode) {
	case FUSE_INIT:
		*(struct fuse_init_out *)out = (struct fuse_init_out) {
			.major = 7, .minor = 38, .max_readahead = init_in->max_readahead,
			.flags = (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS) & init_in->flags,
			.max_background = 64, .congestion_threshold = 48, .max_write = SIZE, .time_gran = 1, .max_pages = 256,
		};
		return sizeof(struct fuse_init_out);
	case FUSE_LOOKUP:
		attr.ino = 2;
		attr.mode = 0100644;
		attr.size = SIZE;
		*(struct fuse_entry_out *)out = (struct fuse_entry_out) { .nodeid = 2, .attr = attr };
		return sizeof(struct fuse_entry_out);
	case FUSE_GETATTR:
		*(struct fuse_attr_out *)out = (struct fuse_attr_out) { .attr = attr };
		return sizeof(struct fuse_attr_out);
	case FUSE_OPEN:
		*(struct fuse_open_out *)out = (struct fuse_open_out) { .open_flags = FOPEN_DIRECT_IO };
		return sizeof(struct fuse_open_out);
	case FUSE_READ:
		payload->iov_base = data;
		payload->iov_len = read_in->offset >= SIZE ? 0 : SIZE - read_in->offset;
		if (payload->iov_len > read_in->size)
			payload->iov_len = read_in->size;
		return 0;
	case FUSE_WRITE:
		if (write_in->offset > SIZE || write_in->size > SIZE - write_in->offset) {
			*error = -ENOSPC;
			return 0;
		}
		memcpy(data + write_in->offset, write_in + 1, write_in->size);
		*(struct fuse_write_out *)out = (struct fuse_write_out) { .size = write_in->size };
		return sizeof(struct fuse_write_out);
	case FUSE_RELEASE:
	case FUSE_FLUSH:
		return 0;
	}
	*error = -ENOSYS;
	return 0;
}

int main(int argc, char **argv)
{
	int fd = argc > 1 ? atoi(argv[1]) : 0;
	char options[128];
	union { struct fuse_init_out i; struct fuse_entry_out e; struct fuse_attr_out a; struct fuse_open_out o;
		struct fuse_write_out w; } out;

	if (fd <= 0) {
		fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
		snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd);
		if (fd < 0 || mount("server", argv[1], "fuse.server", 0, options)) {
			perror("mount");
			return 1;
		}
	}
	for (;;) {
		ssize_t size = read(fd, request, FRAME);
		struct fuse_in_header *head = (void *)request;
		struct fuse_out_header reply = { .unique = head->unique };
		struct iovec parts[3] = { { &reply, sizeof reply }, { &out, 0 }, { NULL, 0 } };

		if (size < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
			continue;
		if (size <= 0)
			return 0;
		if (head->opcode == FUSE_FORGET || head->opcode == FUSE_BATCH_FORGET || head->opcode == FUSE_INTERRUPT)
			continue;
		reply.unique = head->unique;
		parts[1].iov_len = answer(head, &out, &parts[2], &reply.error);
		reply.len = sizeof reply + parts[1].iov_len + parts[2].iov_len;
		if (writev(fd, parts, 3) < 0 && errno != ENOENT)
			return 0;
	}
}
