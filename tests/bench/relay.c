/* The floor for a relay over a socket: two threads that copy whole frames and look at none. `relay MOUNTPOINT SERVER...`
 * mounts, and runs SERVER with the number of its device as the last argument. For the benchmark alone. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FRAME = (1 << 20) + 8192, ROOM = 4 << 20 };
static char requests[FRAME], replies[FRAME];
static int device, ours;

static void *back(void *unused)
{
	ssize_t size;
	while ((size = recv(ours, replies, FRAME, 0)) > 0)
		if (write(device, replies, size) < 0 && errno != ENOENT)
			break;
	exit(unused == NULL ? 0 : 1);
}

int main(int argc, char **argv)
{
	int pair[2], room = ROOM;
	char options[128], number[16];
	pthread_t thread;
	ssize_t size;

	if (argc < 3)
		return 64;
	device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", device);
	if (device < 0 || mount("relay", argv[1], "fuse.relay", 0, options)) {
		perror("mount");
		return 1;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		return 1;
	for (int each = 0; each < 2; each++)
		setsockopt(pair[each], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
	if (!fork()) {
		close(pair[0]);
		snprintf(number, sizeof number, "%d", pair[1]);
		execl(argv[2], argv[2], number, (char *)NULL);
		_exit(127);
	}
	close(pair[1]);
	ours = pair[0];
	pthread_create(&thread, NULL, back, NULL);
	for (;;) {
		size = read(device, requests, FRAME);
		if (size < 0 && (errno == EINTR || errno == ENOENT || errno == EAGAIN))
			continue;
		if (size <= 0 || send(ours, requests, size, MSG_NOSIGNAL) < 0)
			exit(0);
	}
}
