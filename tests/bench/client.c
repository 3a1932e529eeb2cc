/* Prints nanoseconds per operation: `client getattr|lookup|open|read|write FILE COUNT [SIZE]`. For the benchmark alone. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FILE_SIZE = 1 << 20 };
static char buffer[FILE_SIZE] __attribute__((aligned(4096))); /* else 1 MiB is a page more than a request holds */

static int operation(int kind, const char *path, int fd, long size, off_t offset)
{
	struct stat found;

	switch (kind) {
	case 'g':
		return fstat(fd, &found);
	case 'l':
		return stat(path, &found);
	case 'o':
		fd = open(path, O_RDONLY);
		return fd < 0 ? -1 : close(fd);
	case 'r':
		return pread(fd, buffer, size, offset) == size ? 0 : -1;
	case 'w':
		return pwrite(fd, buffer, size, offset) == size ? 0 : -1;
	}
	return -1;
}

int main(int argc, char **argv)
{
	struct timespec began, ended;
	long count, size;
	int fd;

	if (argc < 4)
		return 64;
	count = atol(argv[3]);
	size = argc > 4 ? atol(argv[4]) : 0;
	fd = open(argv[2], argv[1][0] == 'w' ? O_RDWR : O_RDONLY);
	if (fd < 0)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (long each = 0; each < count; each++)
		if (operation(argv[1][0], argv[2], fd, size, (each * size) % FILE_SIZE))
			return 1;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%.1f\n", ((ended.tv_sec - began.tv_sec) * 1e9 + ended.tv_nsec - began.tv_nsec) / count);
	return 0;
}
