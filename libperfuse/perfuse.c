/*
 * libperfuse: the client side of perfused's control protocol (docs/control-protocol.md).
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include "private.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#define DEVICE "/dev/fuse"
#define DEFAULT_SOCKET "/run/perfused/perfused.sock"
#define PEER_PREFIX "perfused/"
#define MAGIC "perfuse2"
#define CONTROL UINT64_MAX
#define NAME_LIMIT 64
#define FSTYPE_LIMIT 64
#define FD_LIMIT 253 /* the most descriptors that one message can carry (SCM_MAX_FD) */

enum { HELLO = 1, WELCOME = 2, MOUNT = 3, VERDICT = 4 };
enum { ANY = 0, SOCKET = 1, DEVICE_FILE = 2, DIRECT = 3 };

struct head {
	uint32_t len;
	int32_t error;
	uint64_t unique;
	char magic[8];
	uint16_t kind, flags;
	uint32_t reserved;
};
struct hello { struct head h; uint32_t endpoint, name_len; char name[NAME_LIMIT]; };
struct mount_head { struct head h; uint32_t source_len, target_len, fstype_len, mountflags, data_len, reserved; };
/* An answer's sentence is cut at this size, never refused for its length. */
struct answer { struct head h; union { uint32_t word[4]; char bytes[1024]; } u; };
_Static_assert(sizeof(struct head) == 32 && offsetof(struct hello, name) == 40 && sizeof(struct mount_head) == 56,
    "the frames have no padding");

/*
 * The control connections of descriptors that are no sockets themselves: a descriptor's number and identity, and the
 * connection whose end tells perfused that the filesystem is gone. Never held across anything that can block.
 */
struct kept { struct kept *next; int fd, control; dev_t dev, rdev; ino_t ino; };
static struct kept *table;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local char sentence[512];

const char *perfuse_error(void) { return sentence; }

int fail(int error, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	vsnprintf(sentence, sizeof(sentence), format, ap);
	va_end(ap);
	if (secure_getenv("PERFUSE_DEBUG"))
		dprintf(2, "libperfuse: %s (%s)\n", sentence, strerror(error));
	errno = error;
	return -1;
}

static void lock_table(void) { pthread_mutex_lock(&table_lock); }
static void unlock_table(void) { pthread_mutex_unlock(&table_lock); }
static void at_first_use(void) { pthread_atfork(lock_table, unlock_table, unlock_table); }

int closed(int fd, int result)
{
	int error = errno;
	close(fd);
	errno = error;
	return result;
}

/* The number fd now means something new: what was kept under it goes. control < 0 keeps nothing instead. */
static int keep(int fd, int control)
{
	struct kept **at, *gone = NULL, *fresh = NULL;
	struct stat st;

	if (control >= 0) {
		if (fstat(fd, &st) < 0 || !(fresh = malloc(sizeof(*fresh))))
			return -1;
		*fresh = (struct kept){ NULL, fd, control, st.st_dev, st.st_rdev, st.st_ino };
	}
	lock_table();
	for (at = &table; *at && (*at)->fd != fd; at = &(*at)->next)
		;
	if ((gone = *at))
		*at = gone->next;
	if (fresh) {
		fresh->next = table;
		table = fresh;
	}
	unlock_table();
	if (gone)
		close(gone->control);
	free(gone);
	return 0;
}

/* A duplicate of fd's control connection, so that no other thread can close it meanwhile; -1 if there is none. */
static int control_of(int fd, const struct stat *st)
{
	struct kept *k;
	int control = -1;

	lock_table();
	for (k = table; k; k = k->next)
		if (k->fd == fd && k->dev == st->st_dev && k->ino == st->st_ino && k->rdev == st->st_rdev)
			control = fcntl(k->control, F_DUPFD_CLOEXEC, 3);
	unlock_table();
	return control;
}

static struct head make_head(uint16_t kind, uint32_t len)
{
	struct head h = { .len = len, .unique = CONTROL, .kind = kind };
	memcpy(h.magic, MAGIC, sizeof(h.magic));
	return h;
}

/* After a failed send or receive: 0 where it is worth trying again (a non-blocking descriptor has been waited for). */
static int again(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	if (errno == EINTR)
		return 0;
	if (errno != EAGAIN)
		return -1;
	return poll(&p, 1, -1) < 0 && errno != EINTR ? -1 : 0;
}

static int send_frame(int fd, struct iovec *iov, size_t n, int passed)
{
	union { struct cmsghdr align; char room[CMSG_SPACE(sizeof(int))]; } c;
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };

	if (passed >= 0) {
		memset(&c, 0, sizeof(c));
		m.msg_control = &c;
		m.msg_controllen = sizeof(c);
		c.align.cmsg_level = SOL_SOCKET;
		c.align.cmsg_type = SCM_RIGHTS;
		c.align.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.align), &passed, sizeof(int));
	}
	while (sendmsg(fd, &m, MSG_NOSIGNAL) < 0)
		if (again(fd, POLLOUT) < 0)
			return fail(errno == EPIPE ? ECONNRESET : errno, "cannot send to perfused");
	return 0;
}

/*
 * Receives one answer of the given kind: its refusal becomes errno and the sentence. A FUSE frame in its place is left
 * where it is. *got is the descriptor that came with it, or -1; without got, whatever comes is closed.
 */
static int receive(int fd, uint16_t kind, size_t body, struct answer *a, int *got)
{
	union { struct cmsghdr align; char room[CMSG_SPACE(FD_LIMIT * sizeof(int))]; } c;
	struct iovec iov = { a, sizeof(*a) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	struct cmsghdr *cm;
	ssize_t n;
	int first = -1, taken;

	memset(a, 0, sizeof(*a));
	while ((n = recv(fd, a, sizeof(struct head), MSG_PEEK | MSG_TRUNC)) < 0)
		if (again(fd, POLLIN) < 0)
			return fail(errno, "cannot hear from perfused");
	if (n == 0)
		return fail(ECONNRESET, "perfused closed the connection without an answer");
	if (kind == VERDICT && n >= 16 && a->h.unique != CONTROL)
		return fail(EBUSY, "the descriptor is mounted already: it carries FUSE frames");
	while ((n = recvmsg(fd, &m, MSG_TRUNC | MSG_CMSG_CLOEXEC)) < 0)
		if (again(fd, POLLIN) < 0)
			return fail(errno, "cannot hear from perfused");
	for (cm = CMSG_FIRSTHDR(&m); cm; cm = CMSG_NXTHDR(&m, cm)) {
		if (cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(int) <= cm->cmsg_len; at += sizeof(int)) {
			memcpy(&taken, (char *)cm + at, sizeof(int));
			if (got && first < 0)
				first = taken;
			else
				close(taken);
		}
	}
	size_t message = sizeof(struct head) + body, length = kind == WELCOME ? a->u.word[2] : a->u.word[1];
	if ((size_t)n < message || a->h.len != (size_t)n || a->h.unique != CONTROL ||
	    memcmp(a->h.magic, MAGIC, sizeof(a->h.magic)) ||
	    a->h.kind != kind || a->h.flags || a->h.error > 0 || a->h.error < -4095 ||
	    length > (size_t)n - message) {
		if (first >= 0)
			close(first);
		return fail(EPROTO, "perfused answered with a frame that is none");
	}
	if (a->h.error) {
		size_t room = sizeof(*a) - message;
		if (first >= 0)
			close(first);
		if (!length)
			return fail(-a->h.error, "perfused refused without a reason");
		return fail(-a->h.error, "%.*s", (int)(length < room ? length : room), (char *)a + message);
	}
	if (got)
		*got = first;
	return 0;
}

static int reach(void)
{
	const char *path = secure_getenv("PERFUSED_SOCKET"), *never = secure_getenv("PERFUSE_NO_PRIVATE");
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int fd;

	if (!path || !*path)
		path = DEFAULT_SOCKET;
	if (strlen(path) >= sizeof(name.sun_path))
		return fail(ENAMETOOLONG, "PERFUSED_SOCKET is longer than a socket's name can be");
	strcpy(name.sun_path, path);
	if ((fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)) < 0)
		return fail(errno, "cannot make a socket");
	while (connect(fd, (struct sockaddr *)&name, sizeof(name)) < 0) {
		if (errno == EINTR)
			continue;
		int error = errno, gone = error == ENOENT || error == ECONNREFUSED;
		close(fd);
		if (gone && !(never && strcmp(never, "1") == 0))
			return start_private();
		return fail(error, "no perfused can be reached at %s", path);
	}
	return fd;
}

int perfuse_open(const char *path, int flags, mode_t mode)
{
	static const char *const names[] = {
		[ANY] = "any", [SOCKET] = "socket", [DEVICE_FILE] = "device", [DIRECT] = "direct",
	};
	struct hello hello = { .endpoint = ANY };
	const char *wanted = secure_getenv("PERFUSE_ENDPOINT");
	struct answer a;
	struct stat st;
	int connection, fd;

	pthread_once(&once, at_first_use);
	sentence[0] = 0;
	if (!path)
		return fail(EFAULT, "there is no path");
	if (strcmp(path, DEVICE)) {
		if ((fd = open(path, flags, mode)) < 0)
			return fail(errno, "cannot open %s", path);
		keep(fd, -1);
		return fd;
	}
	if (wanted && *wanted) {
		while (hello.endpoint <= DIRECT && strcmp(wanted, names[hello.endpoint]))
			hello.endpoint++;
		if (hello.endpoint > DIRECT)
			return fail(EINVAL, "PERFUSE_ENDPOINT is none of any, socket, device, direct");
	}
	snprintf(hello.name, sizeof(hello.name), "%s", program_invocation_short_name);
	hello.name_len = strlen(hello.name) + 1;
	hello.h = make_head(HELLO, offsetof(struct hello, name) + hello.name_len);
	if ((connection = reach()) < 0)
		return -1;
	if (send_frame(connection, &(struct iovec){ &hello, hello.h.len }, 1, -1) < 0 ||
	    receive(connection, WELCOME, 16, &a, &fd) < 0)
		return closed(connection, -1);
	if (fd < 0)
		return closed(connection, fail(EPROTO, "perfused welcomed us without a descriptor"));
	if (fstat(fd, &st) < 0 || a.u.word[0] < SOCKET || a.u.word[0] > DIRECT ||
	    (a.u.word[0] == SOCKET) != !!S_ISSOCK(st.st_mode))
		return closed(fd, closed(connection, fail(EPROTO, "perfused's descriptor is not what it says")));
	int status = fcntl(fd, F_GETFL);
	if (fcntl(fd, F_SETFL, (status & ~O_NONBLOCK) | (flags & O_NONBLOCK)) < 0 ||
	    (!(flags & O_CLOEXEC) && fcntl(fd, F_SETFD, 0) < 0) ||
	    keep(fd, a.u.word[0] == SOCKET ? -1 : connection) < 0)
		return closed(fd, closed(connection, fail(errno, "cannot keep perfused's descriptor")));
	return a.u.word[0] == SOCKET ? closed(connection, fd) : fd;
}

/* The number of the last "fd=" option, as the kernel would take it; -1 without one, -2 where it is no number. */
static int fd_option(const char *data)
{
	int found = -1;

	for (const char *at = data; at; at = (at = strchr(at, ',')) ? at + 1 : NULL)
		if (strncmp(at, "fd=", 3) == 0) {
			char *end;
			unsigned long n = strtoul(at + 3, &end, 10);
			found = at[3] < '0' || at[3] > '9' || (*end && *end != ',') || n > INT32_MAX ? -2 : (int)n;
		}
	return found;
}

static int is_fuse(const char *type)
{
	size_t n = type ? strcspn(type, ".|") : 0;

	return !type || (n == 4 && !strncmp(type, "fuse", 4) && type[4] != '|') ||
	    (n == 7 && (!strncmp(type, "perfuse|", 8) || (!strncmp(type, "fuseblk", 7) && type[7] != '|')));
}

/* What carries fd's mount frame: fd itself or a duplicate; -1 with errno 0 where mount(2) has to decide. */
static int mount_channel(int fd)
{
	struct sockaddr_un name;
	socklen_t n = sizeof(name);
	struct stat st;
	int control;

	if (fd < 0)
		return fail(EINVAL, "fd= in the mount options is no number");
	if (fstat(fd, &st) < 0)
		return fail(errno, "fd=%d in the mount options is not open", fd);
	if (!S_ISSOCK(st.st_mode)) {
		if ((control = control_of(fd, &st)) >= 0)
			return control;
		if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(10, 229))
			return fail(ENOTSOCK, "fd=%d in the mount options is no FUSE device", fd);
		errno = 0;
		return -1;
	}
	memset(&name, 0, sizeof(name));
	if (getpeername(fd, (struct sockaddr *)&name, &n) < 0)
		return fail(errno, "fd=%d in the mount options is not connected", fd);
	if (name.sun_family != AF_UNIX || n < offsetof(struct sockaddr_un, sun_path) + sizeof(PEER_PREFIX) ||
	    memcmp(name.sun_path, "\0" PEER_PREFIX, sizeof(PEER_PREFIX)))
		return fail(EINVAL, "fd=%d in the mount options is a socket, but not of perfused", fd);
	return fd;
}

static uint32_t counted(const char *s) { return s ? strnlen(s, STRING_LIMIT) + 1 : 0; }

int perfuse_mount(const char *source, const char *target, const char *filesystemtype, long mountflags,
    const void *data)
{
	struct mount_head h = { .mountflags = (uint32_t)mountflags };
	int fd = data && is_fuse(filesystemtype) ? fd_option(data) : -1, channel, pinned, result;
	struct answer a;

	pthread_once(&once, at_first_use);
	sentence[0] = 0;
	if (fd == -1 || ((channel = mount_channel(fd)) < 0 && errno == 0)) {
		result = mount(source, target, filesystemtype, (unsigned long)mountflags, data);
		return result < 0 ? fail(errno, "mount(2) failed") : result;
	}
	if (channel < 0)
		return -1;
	h.source_len = counted(source);
	h.target_len = counted(target);
	h.fstype_len = counted(filesystemtype);
	h.data_len = counted(data);
	h.h = make_head(MOUNT, sizeof(h) + h.source_len + h.target_len + h.fstype_len + h.data_len);
	struct iovec iov[] = { { &h, sizeof(h) }, { (void *)source, h.source_len }, { (void *)target, h.target_len },
		{ (void *)filesystemtype, h.fstype_len }, { (void *)data, h.data_len } };
	if (h.data_len > STRING_LIMIT)
		result = fail(E2BIG, "the mount options are too long");
	else if (h.source_len > STRING_LIMIT || h.target_len > STRING_LIMIT || h.fstype_len > FSTYPE_LIMIT)
		result = fail(ENAMETOOLONG, "the mount's source, target or type is too long");
	else if (!target)
		result = fail(EFAULT, "there is no mount point");
	else if ((pinned = open(target, O_PATH | O_CLOEXEC)) < 0)
		result = fail(errno, "cannot open the mount point %s", target);
	else {
		result = send_frame(channel, iov, 5, pinned) < 0 ? -1 : receive(channel, VERDICT, 8, &a, NULL);
		closed(pinned, 0);
	}
	return channel == fd ? result : closed(channel, result);
}
