/* An echo on a Unix socket: what the kernel and a scheduler take for themselves, with no work in between.
   Ends with its standard input. */

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void echo(int fd) {
    static char buffer[65536];
    ssize_t count = read(fd, buffer, sizeof buffer);
    ssize_t sent = 0;
    while (sent < count) {
        ssize_t more = write(fd, buffer + sent, count - sent);
        if (more <= 0)
            break;
        sent += more;
    }
    if (count <= 0)
        close(fd);
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct epoll_event ready[64];
    int epoll = epoll_create1(0);
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, argv[1]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128))
        return 1;
    watch(epoll, STDIN_FILENO);
    watch(epoll, listener);
    puts("READY");
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, ready, 64, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == STDIN_FILENO)
                return 0;
            else if (ready[i].data.fd == listener)
                watch(epoll, accept(listener, NULL, NULL));
            else
                echo(ready[i].data.fd);
        }
    }
}
