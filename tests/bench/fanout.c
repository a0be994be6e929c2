/* Fan-out over Unix sockets: what the kernel takes for itself, and somebody to read it.

   fanout send PATH N  accepts N subscribers; a line "BURSTS BURST SIZE" on standard input has it send so many
                       bursts of so many lines of that size, each burst with one send() to each subscriber.
   fanout read PATH N  connects N subscribers and reads; a line "COUNT" has it say DONE when so many lines have
                       come since the last DONE.

   Both say READY, and end with their standard input. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST = 1024 };

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

static void watch(int epoll, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static int send_all(const int *links, int count, long bursts, long burst, long size) {
    char *data = malloc(burst * size);
    memset(data, 'x', burst * size);
    for (long line = 1; line <= burst; line++)
        data[line * size - 1] = '\n';
    for (long n = 0; n < bursts; n++)
        for (int i = 0; i < count; i++)
            for (long sent = 0; sent < burst * size;) {
                ssize_t more = send(links[i], data + sent, burst * size - sent, MSG_NOSIGNAL);
                if (more <= 0)
                    return 1;
                sent += more;
            }
    free(data);
    return 0;
}

static int serve(const struct sockaddr_un *address, int count) {
    static int links[MOST];
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    long bursts, burst, size;
    char line[128];
    if (count > MOST || bind(listener, (const struct sockaddr *)address, sizeof *address) || listen(listener, MOST))
        return 1;
    say("READY");
    for (int i = 0; i < count; i++)
        links[i] = accept(listener, NULL, NULL);
    while (fgets(line, sizeof line, stdin))
        if (sscanf(line, "%ld %ld %ld", &bursts, &burst, &size) != 3 || send_all(links, count, bursts, burst, size))
            return 1;
    return 0;
}

static long count_lines(const char *data, ssize_t length) {
    long count = 0;
    const char *end = data + length;
    while ((data = memchr(data, '\n', end - data))) {
        data++;
        count++;
    }
    return count;
}

static int subscribe(const struct sockaddr_un *address, int count) {
    static char buffer[262144];
    struct epoll_event ready[64];
    int epoll = epoll_create1(0);
    long seen = 0, wanted = -1;
    for (int i = 0; i < count; i++) {
        int link = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(link, (const struct sockaddr *)address, sizeof *address))
            return 1;
        watch(epoll, link);
    }
    watch(epoll, STDIN_FILENO);
    say("READY");
    for (;;) {
        int events = epoll_wait(epoll, ready, 64, -1);
        for (int i = 0; i < events; i++) {
            int is_command = ready[i].data.fd == STDIN_FILENO;
            ssize_t length = read(ready[i].data.fd, buffer, sizeof buffer - 1);
            if (length <= 0)
                return is_command ? 0 : 1;
            buffer[length] = 0;
            if (is_command)
                wanted = atol(buffer);
            else
                seen += count_lines(buffer, length);
        }
        if (wanted >= 0 && seen >= wanted) {
            seen -= wanted;
            wanted = -1;
            say("DONE");
        }
    }
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 4 || strlen(argv[2]) >= sizeof address.sun_path)
        return 2;
    strcpy(address.sun_path, argv[2]);
    if (!strcmp(argv[1], "send"))
        return serve(&address, atoi(argv[3]));
    if (!strcmp(argv[1], "read"))
        return subscribe(&address, atoi(argv[3]));
    return 2;
}
