/* Prints nanoseconds per operation: `client getattr|read FILE COUNT [SIZE]`. For the benchmark alone. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];

int main(int argc, char **argv)
{
	struct timespec began, ended;
	struct stat found;
	int fd, reading;
	long count, size;

	if (argc < 4)
		return 64;
	count = atol(argv[3]);
	size = argc > 4 ? atol(argv[4]) : 0;
	reading = !strcmp(argv[1], "read");
	fd = open(argv[2], O_RDONLY);
	if (fd < 0)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &began);
	for (long each = 0; each < count; each++)
		if (reading ? pread(fd, buffer, size, (each * size) % (1 << 20)) != size : fstat(fd, &found))
			return 1;
	clock_gettime(CLOCK_MONOTONIC, &ended);
	printf("%.1f\n", ((ended.tv_sec - began.tv_sec) * 1e9 + ended.tv_nsec - began.tv_nsec) / count);
	return 0;
}
