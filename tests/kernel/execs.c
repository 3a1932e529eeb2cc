/*
 * execs STEP...: makes the system calls that the steps name, one after another, and prints a line for each: the name
 * and 0 or the errno's name. Each step is one argument, its words parted by blanks.
 *
 * Descriptors stand in a list in the order they were opened; @N in any word is the number of the Nth. A path or a
 * string is given as it is; "-" is a null pointer, "!" a pointer to nothing, "~" an empty string, "%N" N letters.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST 64
#define BACKING_OPEN _IOW(229, 1, struct { int32_t fd; uint32_t flags; uint64_t padding; })
/* older headers lack them */
#define PASSTHROUGH (1ULL << 37)
#define OPEN_PASSTHROUGH (1 << 7)
#define CLONE _IOR(229, 0, uint32_t)

static int fds[MOST], count, argc;
static char **argv;
static uint32_t backing_id;
static pid_t first;
static int backing_fd = -1;

struct how { uint64_t flags, mode, resolve; };

static void say(const char *step, long result)
{
	char line[256];
	int n = snprintf(line, sizeof(line), "%s %s\n", step, result < 0 ? strerrorname_np(errno) : "0");

	if (write(1, line, n) != n)
		_exit(3);
}

/* A copy of a string below 4 GiB, where 32-bit calls reach it; "@N" in it replaced by descriptors. */
static char *string(const char *from)
{
	char *out, *to;
	size_t letters = from && *from == '%' ? strtoul(from + 1, NULL, 10) : 0;

	if (!from || !strcmp(from, "-"))
		return NULL;
	if (!strcmp(from, "!"))
		return (char *)16;
	out = to = mmap(NULL, letters + 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (out == MAP_FAILED)
		_exit(4);
	if (letters)
		memset(out, 'x', letters);
	else if (strcmp(from, "~"))
		while (*from) {
			if (*from == '@') {
				char *end;
				to += sprintf(to, "%d", fds[strtol(from + 1, &end, 10)]);
				from = end;
			} else
				*to++ = *from++;
		}
	return out;
}

static int number(const char *from)
{
	if (!strcmp(from, "cwd"))
		return AT_FDCWD;
	return *from == '@' ? fds[atoi(from + 1)] : (int)strtol(from, NULL, 0);
}

/* r, w, b: the access; c close-on-exec, n not blocking, p O_PATH, d O_DIRECTORY, x O_CREAT, f O_NOFOLLOW */
static int open_flags(const char *letters)
{
	int flags = 0;

	for (; *letters; letters++)
		flags |= *letters == 'w' ? O_WRONLY : *letters == 'b' ? O_RDWR : *letters == 'c' ? O_CLOEXEC :
		    *letters == 'n' ? O_NONBLOCK : *letters == 'p' ? O_PATH : *letters == 'd' ? O_DIRECTORY :
		    *letters == 'x' ? O_CREAT : *letters == 'f' ? O_NOFOLLOW : 0;
	return flags;
}

static long opened(long fd)
{
	if (fd >= 0)
		fds[count++ % MOST] = fd;
	return fd;
}

static long call32(long nr, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t e)
{
#ifdef __x86_64__
	long result;

	__asm__ volatile("int $0x80" : "=a"(result)
	    : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory", "r8", "r9", "r10", "r11");
	result = (int)result;
	if (result < 0)
		errno = -result, result = -1;
	return result;
#else
	errno = ENOSYS;
	return -1;
#endif
}

/* The smallest filesystem: a directory with a file "f" of five bytes, or of a backing file's. */
static void answer(int to, const struct fuse_in_header *in, void *body, size_t len, int error)
{
	struct { struct fuse_out_header head; char body[65536]; } out = { { sizeof(out.head), error, in->unique }, "" };

	if (!error) {
		memcpy(out.body, body, len);
		out.head.len += len;
	}
	if (write(to, &out, out.head.len) < 0 && errno != ENOENT)
		dprintf(2, "execs: answer to opcode %u: %s\n", in->opcode, strerrorname_np(errno));
}

static struct fuse_attr attr_of(uint64_t node)
{
	return (struct fuse_attr){ .ino = node, .nlink = 1, .mode = node == 1 ? S_IFDIR | 0755 : S_IFREG | 0644,
	    .size = node == 1 ? 0 : 5, .uid = getuid(), .gid = getgid(), .blksize = 4096 };
}

static void one(const struct fuse_in_header *in, int to)
{
	if (in->opcode == FUSE_INIT) {
		const struct fuse_init_in *offer = (const void *)(in + 1);
		struct fuse_init_out init = { .major = 7, .minor = 40, .max_write = 65536, .flags = FUSE_INIT_EXT };
		if (offer->flags & FUSE_INIT_EXT && offer->flags2 & PASSTHROUGH >> 32)
			init.flags2 = PASSTHROUGH >> 32, ((uint32_t *)&init)[9] = 1; /* max_stack_depth */
		answer(to, in, &init, sizeof(init), 0);
	} else if (in->opcode == FUSE_GETATTR) {
		struct fuse_attr_out out = { .attr = attr_of(in->nodeid) };
		answer(to, in, &out, sizeof(out), 0);
	} else if (in->opcode == FUSE_LOOKUP) {
		struct fuse_entry_out out = { .nodeid = 2, .attr = attr_of(2) };
		answer(to, in, &out, sizeof(out), strcmp((const char *)(in + 1), "f") ? -ENOENT : 0);
	} else if (in->opcode == FUSE_OPEN) {
		struct fuse_open_out out = { .open_flags = FOPEN_DIRECT_IO };
		if (backing_id)
			out.open_flags = OPEN_PASSTHROUGH, ((uint32_t *)&out)[3] = backing_id;
		answer(to, in, &out, sizeof(out), 0);
	} else if (in->opcode == FUSE_READ) {
		const struct fuse_read_in *wanted = (const void *)(in + 1);
		answer(to, in, "hello", wanted->offset ? 0 : wanted->size < 5 ? wanted->size : 5, 0);
	} else if (in->opcode == FUSE_RELEASE || in->opcode == FUSE_FLUSH) {
		answer(to, in, "", 0, 0);
	} else if (in->opcode != FUSE_FORGET && in->opcode != FUSE_BATCH_FORGET)
		answer(to, in, "", 0, -ENOSYS);
}

struct service { int from, to; };

static void *serve(void *arg)
{
	struct service s = *(struct service *)arg;
	struct fuse_in_header *in = malloc(1 << 20);

	for (;;) {
		ssize_t n = read(s.from, in, 1 << 20);
		if (n > 0)
			one(in, s.to);
		else if (n == 0 || (errno != EINTR && errno != ENOENT && errno != EAGAIN))
			break;
	}
	return NULL;
}

static volatile int racing;

static void *racer(void *arg)
{
	char **words = arg;

	while (racing) {
		strcpy(words[0], words[1]);
		strcpy(words[0], words[2]);
	}
	return NULL;
}

static void *flooder(void *path)
{
	for (;;) {
		int fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			say("flooder", -1);
		close(fd);
	}
	return NULL;
}

static int signals;

static void counted(int sig)
{
	(void)sig;
	__atomic_add_fetch(&signals, 1, __ATOMIC_SEQ_CST);
}

static long drop_capability(int cap)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];

	if (syscall(SYS_capget, &head, sets))
		return -1;
	sets[cap / 32].effective &= ~(1u << cap % 32);
	sets[cap / 32].permitted &= ~(1u << cap % 32);
	sets[cap / 32].inheritable &= ~(1u << cap % 32);
	return syscall(SYS_capset, &head, sets);
}

static int steps(int at);

static void *thread(void *arg)
{
	steps(*(int *)arg);
	return NULL;
}

static int past_join(int at)
{
	while (at < argc && strcmp(argv[at], "join"))
		at++;
	return at;
}

static void again(int at)
{
	char list[512] = "", first_pid[16], *program = "/proc/self/exe";
	char *args[256] = { argv[0] };
	int n = 1;

	for (int i = 0; i < count; i++)
		sprintf(list + strlen(list), "%d ", fds[i]);
	setenv("EXECS_FDS", list, 1);
	sprintf(first_pid, "%d", first);
	setenv("EXECS_FIRST", first_pid, 1);
	for (at++; at < argc && n < 255; at++)
		args[n++] = argv[at];
	execv(getenv("EXECS") ? getenv("EXECS") : program, args);
	say("exec", -1);
}

#define IS(name) (!strcmp(w[0], name))
#define S(n) string(w[n])
#define U(n) strtoul(w[n] ? w[n] : "0", NULL, 0)
#define P(n) ((uintptr_t)S(n))

static int step(int at)
{
	char text[8192], *w[12] = { NULL }, *rest = text, *word;
	int n = 0;

	snprintf(text, sizeof(text), "%s", argv[at]);
	while (n < 11 && (word = strsep(&rest, " ")))
		w[n++] = word;
	if (IS("open"))
		say("open", opened(syscall(SYS_open, S(1), open_flags(w[2]), 0600)));
	else if (IS("openat"))
		say("openat", opened(syscall(SYS_openat, number(w[1]), S(2), open_flags(w[3]), 0600)));
	else if (IS("openat2")) {
		struct how how = { (unsigned)open_flags(w[3]), 0, U(4) };
		say("openat2", opened(syscall(SYS_openat2, number(w[1]), S(2), &how, sizeof(how))));
	} else if (IS("open32"))
		say("open32", opened(call32(5, P(1), open_flags(w[2]), 0, 0, 0)));
	else if (IS("openat32"))
		say("openat32", opened(call32(295, number(w[1]), P(2), open_flags(w[3]), 0, 0)));
	else if (IS("mount32"))
		say("mount32", call32(21, P(1), P(2), P(3), U(4), P(5)));
	else if (IS("umount32"))
		say("umount32", call32(22, P(1), 0, 0, 0, 0));
	else if (IS("umount2_32"))
		say("umount2_32", call32(52, P(1), U(2), 0, 0, 0));
	else if (IS("sys32"))
		say("sys32", call32(U(1), P(2), P(3), P(4), P(5), P(6)));
	else if (IS("sys64"))
		say("sys64", syscall(U(1), P(2), P(3), P(4), P(5), P(6)));
	else if (IS("openx32"))
		say("openx32", syscall(0x40000002, S(1), open_flags(w[2]), 0));
	else if (IS("mount"))
		say("mount", syscall(SYS_mount, S(1), S(2), S(3), U(4), S(5)));
	else if (IS("mountedge")) {
		/* the options end where the page does, and the next page is not there */
		char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *data = S(5);
		munmap(page + 4096, 4096);
		data = memcpy(page + 4096 - strlen(data), data, strlen(data));
		say("mountedge", syscall(SYS_mount, S(1), S(2), S(3), U(4), data));
	} else if (IS("umount"))
		say("umount", syscall(SYS_umount2, S(1), U(2)));
	else if (IS("fsopen"))
		say("fsopen", opened(syscall(SYS_fsopen, S(1), U(2))));
	else if (IS("fsconfig"))
		say("fsconfig", syscall(SYS_fsconfig, number(w[1]), U(2), S(3), S(4), w[5] ? number(w[5]) : 0));
	else if (IS("fsmount"))
		say("fsmount", opened(syscall(SYS_fsmount, number(w[1]), U(2), U(3))));
	else if (IS("move_mount"))
		say("move_mount", syscall(SYS_move_mount, number(w[1]), S(2), number(w[3]), S(4), U(5)));
	else if (IS("clone")) {
		uint32_t other = number(w[2]);
		say("clone", ioctl(number(w[1]), CLONE, &other));
	} else if (IS("cloneat"))
		say("cloneat", ioctl(number(w[1]), CLONE, (void *)16));
	else if (IS("ioctl"))
		say("ioctl", ioctl(number(w[1]), U(2), U(3)));
	else if (IS("backing")) {
		struct { int32_t fd; uint32_t flags; uint64_t padding; } map = { number(w[2]), 0, 0 };
		long id = ioctl(number(w[1]), BACKING_OPEN, &map);
		say("backing", id);
		if (id > 0)
			backing_id = id, backing_fd = number(w[2]);
	} else if (IS("unback"))
		say("unback", ioctl(number(w[1]), _IOW(229, 2, uint32_t), &backing_id));
	else if (IS("dup"))
		say("dup", opened(fcntl(number(w[1]), F_DUPFD, 100)));
	else if (IS("close"))
		say("close", close(number(w[1])));
	else if (IS("read")) {
		char frame[4];
		say("read", read(number(w[1]), frame, sizeof(frame)));
	} else if (IS("readlater"))
		say("readlater", read(number(w[1]), S(2), 100));
	else if (IS("flags"))
		printf("flags%s%s%s\n", fcntl(number(w[1]), F_GETFD) & FD_CLOEXEC ? " cloexec" : "",
		    fcntl(number(w[1]), F_GETFL) & O_NONBLOCK ? " nonblock" : "",
		    (fcntl(number(w[1]), F_GETFL) & O_ACCMODE) == O_RDWR ? " rdwr" : ""), fflush(stdout);
	else if (IS("kind")) {
		struct stat s;
		printf("kind %s\n", fstat(number(w[1]), &s) ? "none" : S_ISSOCK(s.st_mode) ? "socket" : S_ISCHR(s.st_mode)
		    ? "device" : S_ISREG(s.st_mode) ? "file" : "other"), fflush(stdout);
	} else if (IS("chdir"))
		say("chdir", chdir(w[1]));
	else if (IS("chroot"))
		say("chroot", chroot(w[1]));
	else if (IS("unshare"))
		say("unshare", unshare(U(1)) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ? -1 : 0);
	else if (IS("user"))
		say("user", setgroups(0, NULL) || setresgid(U(1), U(1), U(1)) || setresuid(U(1), U(1), U(1)) ? -1 : 0);
	else if (IS("drop"))
		say("drop", drop_capability(U(1)));
	else if (IS("prctl"))
		say("prctl", prctl(U(1), U(2), U(3), U(4), 0));
	else if (IS("serve")) {
		struct service *s = malloc(sizeof(*s));
		pthread_t id;
		*s = (struct service){ number(w[1]), number(w[w[2] ? 2 : 1]) };
		say("serve", pthread_create(&id, NULL, serve, s));
	} else if (IS("served")) {
		struct service s = { number(w[1]), number(w[1]) };
		say("served", 0);
		serve(&s);
		say("ended", 0);
	} else if (IS("signals")) {
		signal(U(1), counted);
	} else if (IS("counted"))
		printf("counted %d\n", signals), fflush(stdout);
	else if (IS("pause")) {
		char letter;
		/* until a letter or the end comes on the standard input */
		say("pause", 0);
		while (read(0, &letter, 1) < 0 && errno == EINTR)
			;
	} else if (IS("say"))
		say(w[1], 0);
	else if (IS("race")) {
		/* race CALL SECONDS ONE OTHER: for so long another thread writes one string and the other in turn */
		pthread_t id;
		char *room = S(3), *words[3] = { room, S(3), S(4) };
		int got = 0, refused = 0;
		time_t end = time(NULL) + U(2);
		racing = 1;
		pthread_create(&id, NULL, racer, words);
		while (time(NULL) < end) {
			long r = !strcmp(w[1], "open") ? syscall(SYS_open, room, O_RDWR | O_CLOEXEC)
			    : syscall(SYS_mount, "execs", w[5], "fuse", 0, room);
			if (r >= 0)
				got++;
			else
				refused++;
			if (r >= 0 && !strcmp(w[1], "open"))
				close(r);
			if (r >= 0 && strcmp(w[1], "open"))
				umount2(w[5], MNT_DETACH);
		}
		racing = 0;
		pthread_join(id, NULL);
		printf("race %s %s\n", got ? "some" : "none", refused ? "some" : "none"), fflush(stdout);
	} else if (IS("time")) {
		/* time N PATH: how long an open O_RDWR takes, in ns */
		struct timespec a, b;
		char *path = S(2);
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (unsigned long i = 0; i < U(1); i++)
			close(open(path, O_RDWR));
		clock_gettime(CLOCK_MONOTONIC, &b);
		printf("time %ld\n", ((b.tv_sec - a.tv_sec) * 1000000000L + b.tv_nsec - a.tv_nsec) / (long)U(1));
		fflush(stdout);
	} else if (IS("flood")) {
		/* flood N PATH: so many threads open and close it until the process ends */
		say("flood", 0);
		for (unsigned long i = 0; i < U(1); i++) {
			pthread_t id;
			pthread_create(&id, NULL, flooder, S(2));
		}
	} else if (IS("fork") || IS("daemon")) {
		pid_t child = fork();
		if (!child)
			return at + 1;
		if (IS("daemon"))
			_exit(child < 0);
		int status = 0;
		waitpid(child, &status, 0);
		return past_join(at) + 1;
	} else if (IS("thread")) {
		int from = at + 1;
		pthread_t id;
		pthread_create(&id, NULL, thread, &from);
		pthread_join(id, NULL);
		return past_join(at) + 1;
	} else if (IS("exec"))
		again(at);
	else if (IS("kill"))
		kill(getpid(), U(1));
	else if (IS("exit"))
		_exit(U(1));
	else {
		dprintf(2, "execs: no step %s\n", w[0]);
		_exit(2);
	}
	return at + 1;
}

static int steps(int at)
{
	while (at < argc && strcmp(argv[at], "join"))
		at = step(at);
	return at;
}

int main(int count_of, char **vector)
{
	char *list = getenv("EXECS_FDS"), *word;

	argc = count_of, argv = vector;
	while (list && (word = strsep(&list, " ")) && *word)
		fds[count++] = atoi(word);
	first = getenv("EXECS_FIRST") ? atoi(getenv("EXECS_FIRST")) : getpid();
	for (int at = 1; at < argc;) {
		at = steps(at);
		if (at < argc && getpid() != first)
			_exit(0); /* a forked child has come to its join */
		at++;
	}
	return 0;
}
