/*
 * Where no perfused listens: finds the program and starts one for this filesystem alone.
 */
#define _GNU_SOURCE
#include "private.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAFE_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* The program to start, as a path: found here, because between fork and exec there is no safe way to search. */
static int find_program(char *found, size_t size)
{
	const char *name = secure_getenv("PERFUSED"), *path = secure_getenv("PATH"), *end;
	int error = ENOENT;

	if (!name || !*name)
		name = "perfused";
	if (strchr(name, '/'))
		return snprintf(found, size, "%s", name) < (int)size ? 0 : fail(ENAMETOOLONG, "PERFUSED is too long");
	for (path = path ? path : SAFE_PATH; path; path = *end ? end + 1 : NULL) {
		end = strchrnul(path, ':');
		const char *slash = end > path ? "/" : "";
		struct stat st;
		if (snprintf(found, size, "%.*s%s%s", (int)(end - path), path, slash, name) >= (int)size)
			continue;
		if (stat(found, &st) < 0 || !S_ISREG(st.st_mode))
			continue;
		if (faccessat(AT_FDCWD, found, X_OK, AT_EACCESS) == 0)
			return 0;
		error = EACCES;
	}
	return fail(error, "no perfused listens, and there is no program %s to start", name);
}

/* In the daemon to be: only 0, 1, 2 and the connection, as descriptor 3, stay open. Async-signal-safe calls only. */
static void become(int connection, int report, char *const argv[], char *const envp[])
{
	struct sigaction dfl = { .sa_handler = SIG_DFL };
	sigset_t none;
	int fd, error;

	connection = fcntl(connection, F_DUPFD, 10);
	report = fcntl(report, F_DUPFD, 10);
	for (fd = 0; fd < 3; fd++) {
		int have = fcntl(fd, F_GETFD), null;
		if ((have < 0 || (have & FD_CLOEXEC)) && (null = open("/dev/null", O_RDWR)) >= 0 && null != fd)
			dup2(null, fd);
	}
	if (dup2(connection, 3) >= 0 && dup3(report, 4, O_CLOEXEC) >= 0) {
		if (syscall(SYS_close_range, 5u, ~0u, 0u) < 0)
			for (fd = sysconf(_SC_OPEN_MAX) - 1; fd >= 5; fd--)
				close(fd);
		report = 4;
		setsid();
		for (int number = 1; number < NSIG; number++)
			sigaction(number, &dfl, NULL);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		execve(argv[0], argv, envp);
	}
	error = errno;
	if (write(report, &error, sizeof(error)) < 0)
		_exit(126);
	_exit(127);
}

/*
 * Starts a private perfused and returns our end of the connection to it. The process in between has no exit signal:
 * the caller sees no SIGCHLD, whatever it does with that signal, and no wait(2) of another thread can take our child.
 * CLONE_VFORK without shared memory lets it go on once the exec has succeeded or its failure has been reported.
 */
int start_private(void)
{
	char program[STRING_LIMIT], *argv[] = { program, (char *)"-i", (char *)"3", NULL };
	char *bare[] = { (char *)"PATH=" SAFE_PATH, NULL }, **envp = getauxval(AT_SECURE) ? bare : environ;
	int sv[2], report[2], error = 0;
	sigset_t all, before;
	pid_t child;

	if (find_program(program, sizeof(program)) < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return fail(errno, "cannot make a socket pair");
	if (pipe2(report, O_CLOEXEC | O_NONBLOCK) < 0) {
		closed(sv[0], closed(sv[1], -1));
		return fail(errno, "cannot make a pipe");
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	child = syscall(SYS_clone, 0, 0, 0, 0, 0);
	if (child == 0) {
		child = syscall(SYS_clone, CLONE_VFORK, 0, 0, 0, 0);
		if (child == 0)
			become(sv[1], report[1], argv, envp);
		error = errno;
		_exit(child < 0 && write(report[1], &error, sizeof(error)) > 0);
	}
	if (child < 0)
		error = errno;
	else
		while (waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
			;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!error && read(report[0], &error, sizeof(error)) != sizeof(error))
		error = 0;
	close(report[0]);
	close(report[1]);
	close(sv[1]);
	if (error)
		return closed(sv[0], fail(error, "no perfused listens, and %s does not start", program));
	return sv[0];
}
