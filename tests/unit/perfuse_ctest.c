/* The client side of test_libperfuse_c.py: one subcommand a run, one line an outcome. */
#define _GNU_SOURCE
#define PERFUSE_NO_MACROS
#include <perfuse.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *target = "/", *type = "fuse.test";

static void outcome(int result)
{
	int error = errno;

	if (result < 0)
		printf("%s: %s\n", strerrorname_np(error), perfuse_error());
	else
		printf("ok: %s\n", perfuse_error());
	fflush(stdout);
}

static int do_open(int flags)
{
	int fd = perfuse_open("/dev/fuse", O_RDWR | flags, 0);

	if (fd < 0)
		outcome(fd);
	return fd;
}

static int do_mount(int fd, const char *more)
{
	char data[8192];

	snprintf(data, sizeof(data), "rootmode=40000,fd=%d%s", fd, more);
	return perfuse_mount("source", target, type, MS_NOSUID, data);
}

static int open_flags(int flags)
{
	int fd = do_open(flags);

	if (fd < 0)
		return 1;
	printf("ok: cloexec=%d nonblock=%d\n", !!(fcntl(fd, F_GETFD) & FD_CLOEXEC),
	    !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
	return 0;
}

static void *one_of_many(void *failures)
{
	for (int i = 0; i < 20; i++) {
		int fd = perfuse_open("/dev/fuse", O_RDWR | O_CLOEXEC, 0);
		if (fd < 0 || do_mount(fd, "") < 0)
			atomic_fetch_add((atomic_int *)failures, 1);
		if (fd >= 0)
			close(fd);
	}
	return NULL;
}

static int crowd(int forks)
{
	pthread_t thread[16];
	atomic_int failures = 0;

	for (int i = 0; i < 16; i++)
		pthread_create(&thread[i], NULL, one_of_many, &failures);
	/* A child of a process whose threads are inside the library is to find the library usable. */
	for (int i = 0; i < forks; i++) {
		pid_t child = fork();
		int status;
		if (child == 0) {
			int fd = perfuse_open("/dev/fuse", O_RDWR, 0);
			_exit(fd < 0 || do_mount(fd, "") < 0);
		}
		if (waitpid(child, &status, 0) < 0 || status)
			atomic_fetch_add(&failures, 1);
	}
	for (int i = 0; i < 16; i++)
		pthread_join(thread[i], NULL);
	printf("%d failures\n", failures);
	return failures;
}

static volatile sig_atomic_t children;
static void count_child(int number) { (void)number; children++; }

static int private_daemon(const char *sigchld)
{
	struct sigaction sa = { .sa_handler = strcmp(sigchld, "ignore") ? count_child : SIG_IGN };
	sigset_t before, after;
	int fd, changed = 0;

	sigaction(SIGCHLD, &sa, NULL);
	sigprocmask(SIG_SETMASK, NULL, &before);
	if ((fd = do_open(0)) < 0)
		return 1;
	sigprocmask(SIG_SETMASK, NULL, &after);
	for (int i = 1; i < NSIG; i++)
		changed |= sigismember(&before, i) != sigismember(&after, i);
	int none = waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD;
	outcome(do_mount(fd, ""));
	printf("sigchld=%d children=%s mask=%s\n", (int)children, none ? "none" : "some",
	    changed ? "changed" : "kept");
	return 0;
}

/* mount(2) and errors that need no daemon. */
static int plain(void)
{
	int pair[2], file = open("/dev/null", O_RDWR);
	char data[8192];

	socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair);
	outcome(perfuse_mount("none", "/no-such-directory", "tmpfs", 0, "fd=77"));
	outcome(perfuse_mount("none", "/no-such-directory", "fuse", 0, "rootmode=40000"));
	outcome(do_mount(777, ""));
	outcome(do_mount(file, ""));
	outcome(do_mount(pair[0], ""));
	outcome(perfuse_mount("none", "/", "fuse", 0, "fd=3x"));
	outcome(perfuse_open("/no-such-file", O_RDONLY, 0));
	snprintf(data, sizeof(data), "%s/created", getenv("SCRATCH"));
	outcome(perfuse_open(data, O_CREAT | O_WRONLY, 0640));
	return 0;
}

/* A /dev/fuse that perfused has nothing to do with. */
static int real(void)
{
	int fd = open("/dev/fuse", O_RDWR);

	if (fd < 0)
		return 1;
	outcome(do_mount(fd, ""));
	return 0;
}

static int limits(void)
{
	static char many[5000];
	int fd = do_open(0);

	if (fd < 0)
		return 1;
	memset(many, 'x', sizeof(many) - 1);
	many[0] = ',';
	outcome(do_mount(fd, many));
	char data[32];
	snprintf(data, sizeof(data), "fd=%d", fd);
	outcome(perfuse_mount(many, "/", "fuse", 0, data));
	outcome(perfuse_mount("s", many, "fuse", 0, data));
	many[0] = '.';
	memcpy(many, "fuse.", 5);
	many[70] = 0;
	outcome(perfuse_mount("s", "/", many, 0, data));
	outcome(perfuse_mount("s", "/no-such-directory", "fuse", 0, data));
	outcome(perfuse_mount("s", NULL, "fuse", 0, data));
	outcome(perfuse_mount("s", "/", NULL, 0, data));
	return 0;
}

/* The kept connection of a device that is no socket: over fork, and until the number means something else. */
static int kept(void)
{
	int fd = do_open(0), status;

	if (fd < 0)
		return 1;
	pid_t child = fork();
	if (child == 0) {
		outcome(do_mount(fd, ",from=child"));
		_exit(0);
	}
	waitpid(child, &status, 0);
	outcome(do_mount(fd, ",from=parent"));
	close(fd);
	printf("same number: %d\n", perfuse_open("/dev/null", O_RDWR, 0) == fd);
	outcome(do_mount(fd, ""));
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argv[1], *word = argc > 2 ? argv[2] : "";

	alarm(30);
	if (getenv("TARGET"))
		target = getenv("TARGET");
	if (getenv("FSTYPE"))
		type = getenv("FSTYPE");
	if (strcmp(what, "open") == 0)
		return open_flags((strchr(word, 'c') ? O_CLOEXEC : 0) | (strchr(word, 'n') ? O_NONBLOCK : 0));
	if (strcmp(what, "crowd") == 0)
		return crowd(atoi(word));
	if (strcmp(what, "private") == 0)
		return private_daemon(word);
	if (strcmp(what, "plain") == 0)
		return plain();
	if (strcmp(what, "real") == 0)
		return real();
	if (strcmp(what, "limits") == 0)
		return limits();
	if (strcmp(what, "kept") == 0)
		return kept();
	if (strcmp(what, "mount") == 0) { /* twice: after a refusal the descriptor can be tried again */
		int fd = do_open(strchr(word, 'n') ? O_NONBLOCK : 0);
		if (fd < 0)
			return 1;
		outcome(do_mount(fd, ""));
		outcome(do_mount(fd, ",again"));
		char frame[64];
		ssize_t n = recv(fd, frame, sizeof(frame), MSG_DONTWAIT);
		printf("left: %zd\n", n < 0 ? 0 : n);
		return 0;
	}
	return 2;
}
