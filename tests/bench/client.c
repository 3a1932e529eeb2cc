/* `client KIND PATH MILLISECONDS [SIZE [CLIENTS [HOW]]]` prints operations, and nanoseconds they took, over all clients.
 * SIZE: bytes read or written; entries of a directory. CLIENTS at the same time, a process each. HOW: `direct` is O_DIRECT,
 * `cached` forgets what the page cache holds of the file before each pass over it. For the benchmark alone. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 1 << 20, MOST = 64, SPINS = 2000000 };
static char buffer[LARGEST] __attribute__((aligned(4096))); /* else 1 MiB is a page more than a request holds */
struct result { long operations, began, ended; };
struct job { const char *kind, *path; long size, blocks; int fd, cached; unsigned long random; };

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int listed(const char *path, long expected)
{
	DIR *directory = opendir(path);
	long found = 0;

	if (directory == NULL)
		return -1;
	while (readdir(directory) != NULL)
		found++;
	closedir(directory);
	errno = ENODATA;
	return found >= expected ? 0 : -1;
}

static int made(const char *path, long number)
{
	char name[4200];
	int fd;

	snprintf(name, sizeof name, "%s/new-%d-%ld", path, (int)getpid(), number);
	fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
	return fd < 0 || close(fd) ? -1 : unlink(name);
}

static int spun(void)
{
	volatile unsigned long sum = 1;

	for (long each = 0; each < SPINS; each++)
		sum = sum * 6364136223846793005UL + 1442695040888963407UL;
	return 0;
}

/* One operation. A short read or write is a failure. */
static int operation(struct job *job, long number)
{
	struct statx found;
	off_t at = number % (job->blocks ? job->blocks : 1) * job->size;
	int fd;

	errno = 0;
	if (!strncmp(job->kind, "rand", 4)) {
		job->random = job->random * 6364136223846793005UL + 1442695040888963407UL;
		at = (job->random >> 33) % job->blocks * job->size;
	}
	if (!strcmp(job->kind, "getattr")) /* asked of the filesystem, whatever is known */
		return statx(job->fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &found);
	if (!strcmp(job->kind, "lookup"))
		return statx(AT_FDCWD, job->path, 0, STATX_BASIC_STATS, &found);
	if (!strcmp(job->kind, "open"))
		return (fd = open(job->path, O_RDONLY)) < 0 ? -1 : close(fd);
	if (strstr(job->kind, "read"))
		return pread(job->fd, buffer, job->size, at) == job->size ? 0 : -1;
	if (strstr(job->kind, "write"))
		return pwrite(job->fd, buffer, job->size, at) == job->size ? 0 : -1;
	if (!strcmp(job->kind, "list"))
		return listed(job->path, job->size);
	if (!strcmp(job->kind, "create"))
		return made(job->path, number);
	return strcmp(job->kind, "spin") ? -1 : spun();
}

static int prepared(struct job *job, const char *how, int seed)
{
	struct stat found;
	int reads = strstr(job->kind, "read") != NULL, writes = strstr(job->kind, "write") != NULL;

	job->random = 88172645463325252UL + seed;
	job->cached = !strcmp(how, "cached");
	job->fd = -1;
	if (!reads && !writes && strcmp(job->kind, "getattr"))
		return 0;
	job->fd = open(job->path, (writes ? O_RDWR : O_RDONLY) | (strcmp(how, "direct") ? 0 : O_DIRECT));
	if (job->fd < 0 || fstat(job->fd, &found))
		return -1;
	job->blocks = job->size ? found.st_size / job->size : 0;
	return (reads || writes) && (!job->blocks || job->size > LARGEST) ? -1 : 0;
}

/* As many operations as fit before `until`, at least one; what it takes to empty the page cache does not count. */
static int run(struct job *job, long until, struct result *result)
{
	long number = 0, step = job->size >= 65536 || strchr("lcs", job->kind[0]) ? 1 : 8, paused = 0, since;

	do {
		if (job->cached && number % job->blocks == 0) {
			since = now();
			posix_fadvise(job->fd, 0, 0, POSIX_FADV_DONTNEED);
			paused += now() - since;
		}
		for (long each = 0; each < step; each++)
			if (operation(job, number++))
				return -1;
	} while (now() - paused < until);
	result->ended = now() - paused;
	result->operations = number;
	return 0;
}

int main(int argc, char **argv)
{
	struct job job = { 0 };
	struct result *results, *all; /* one a client, and what they share: when they began */
	const char *how = argc > 6 ? argv[6] : "plain";
	int clients = argc > 5 ? atoi(argv[5]) : 1, ready[2], go[2], failed = 0, status;
	long milliseconds;
	char byte = 0;

	if (argc < 4 || clients < 1 || clients > MOST)
		return 64;
	job.kind = argv[1];
	job.path = argv[2];
	job.size = argc > 4 ? atol(argv[4]) : 0;
	milliseconds = atol(argv[3]);
	results = mmap(NULL, sizeof *results * (MOST + 1), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED || pipe(ready) || pipe(go))
		return 1;
	all = results + MOST;
	if (clients == 1) {
		failed = prepared(&job, how, 0);
		all->began = now();
		failed = failed || run(&job, all->began + milliseconds * 1000000, results);
		if (failed)
			perror(argv[1]);
	}
	for (int each = 0; clients > 1 && each < clients; each++)
		if (!fork()) {
			close(go[1]);
			failed = prepared(&job, how, each);
			if (write(ready[1], &byte, 1) < 0 || read(go[0], &byte, 1) != 0) /* the parent closes it: all start */
				failed = 1;
			if (failed || run(&job, all->began + milliseconds * 1000000, results + each)) {
				perror(argv[1]);
				_exit(1);
			}
			_exit(0);
		}
	if (clients > 1) {
		for (int each = 0; each < clients; each++)
			if (read(ready[0], &byte, 1) != 1)
				return 1;
		all->began = now();
		close(go[1]);
		while (wait(&status) > 0)
			failed |= status;
	}
	for (int each = 0; each < clients; each++) {
		all->operations += results[each].operations;
		all->ended = results[each].ended > all->ended ? results[each].ended : all->ended;
	}
	if (!failed)
		printf("%ld %ld\n", all->operations, all->ended - all->began);
	return failed ? 1 : 0;
}
