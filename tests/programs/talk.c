/* A program that knows nothing of a mesh: it serves and calls over HTTP/1.1 and plain TCP, with nothing but the system's sockets.
 *
 *     cc -o talk talk.c
 *     talk serve http=PORT tcp=PORT greeting=PORT
 *     talk call PROTOCOL HOST PORT WORDS
 *
 * What is called answers `c: WORDS`, and over HTTP what X-Forwarded-Client-Cert said. Run by crates/app/tests/mesh. */

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Serves one connection that carries one request, and ends it. */
static void serve_http(FILE *in, FILE *out) {
    char line[4096], caller[4096] = "", words[4096] = "";
    size_t length = 0;
    while (fgets(line, sizeof line, in) && strcmp(line, "\r\n") != 0) {
        line[strcspn(line, "\r\n")] = 0;
        if (strncasecmp(line, "content-length:", 15) == 0) length = strtoul(line + 15, NULL, 10);
        if (strncasecmp(line, "x-forwarded-client-cert:", 24) == 0) strcpy(caller, line + 24);
    }
    if (length >= sizeof words || fread(words, 1, length, in) != length) return;
    size_t size = strlen("c: ") + length + 1 + strlen(caller);
    fprintf(out, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\nConnection: close\r\n\r\nc: %s %s", size, words, caller);
}

/* The client speaks first. */
static void serve_tcp(FILE *in, FILE *out) {
    char words[4096];
    if (!fgets(words, sizeof words, in)) return;
    fprintf(out, "c: %s", words);
}

/* The server speaks first, as mail servers do. */
static void serve_greeting(FILE *in, FILE *out) {
    char line[4096];
    fputs("220 c is ready\r\n", out);
    fflush(out);
    if (!fgets(line, sizeof line, in)) return;
    fprintf(out, "250 c: %s", strncmp(line, "HELO ", 5) == 0 ? line + 5 : line);
}

/* A process for the port, and one for each connection. */
static void serve(const char *protocol, int port) {
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = INADDR_ANY};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 64) != 0) fail("listen");
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) continue;
        if (fork() == 0) {
            FILE *in = fdopen(connection, "r"), *out = fdopen(dup(connection), "w");
            if (strcmp(protocol, "http") == 0) serve_http(in, out);
            else if (strcmp(protocol, "tcp") == 0) serve_tcp(in, out);
            else serve_greeting(in, out);
            fflush(out);
            exit(0);
        }
        close(connection);
    }
}

static int dial(const char *host, const char *port) {
    struct addrinfo wanted = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(host, port, &wanted, &found);
    if (error) {
        fprintf(stderr, "%s: %s\n", host, gai_strerror(error));
        exit(1);
    }
    int connection = socket(found->ai_family, found->ai_socktype, 0);
    if (connect(connection, found->ai_addr, found->ai_addrlen) != 0) fail(host);
    freeaddrinfo(found);
    return connection;
}

static void call(const char *protocol, const char *host, const char *port, const char *words) {
    int connection = dial(host, port);
    FILE *in = fdopen(connection, "r"), *out = fdopen(dup(connection), "w");
    char line[4096];
    if (strcmp(protocol, "http") == 0) {
        fprintf(out, "POST /tell HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", host, strlen(words), words);
    } else if (strcmp(protocol, "tcp") == 0) {
        fprintf(out, "%s\n", words);
        fflush(out);
        shutdown(connection, SHUT_WR);
    } else {
        if (!fgets(line, sizeof line, in)) fail("greeting");
        fputs(line, stdout);
        fprintf(out, "HELO %s\r\n", words);
    }
    fflush(out);
    while (fgets(line, sizeof line, in)) fputs(line, stdout);
    putchar('\n');
}

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    if (count > 2 && strcmp(arguments[1], "serve") == 0) {
        for (int index = 2; index < count; index++) {
            char *port = strchr(arguments[index], '=');
            if (!port) return 2;
            *port++ = 0;
            /* The last port is this process's own, and the others end with it. */
            if (index + 1 == count) serve(arguments[index], atoi(port));
            if (fork() == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                serve(arguments[index], atoi(port));
            }
        }
    }
    if (count != 6) return 2;
    call(arguments[2], arguments[3], arguments[4], arguments[5]);
    return 0;
}
