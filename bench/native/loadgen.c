/* A load generator: prepared request bytes over keep-alive connections, one epoll loop, one thread.
 *
 * Each connection sends the next prepared request, waits for its whole reply, checks status and body length, and sends
 * again. Nothing is formatted, signed or copied while it runs, and reply bodies are discarded inside the kernel
 * (MSG_TRUNC), so that on a small machine the loader is not what is measured. It speaks HTTP/1.1 with Content-Length,
 * and for any other protocol it is told how a right reply begins and how long it is, so that every peer is loaded by
 * the same code. At the deadline, or with --once when each request was sent, none is started and those under way are
 * finished, so that requests and server CPU cover the same work. With --awake it asks for replies again and again instead of
 * sleeping until there is one: whoever sends to a process that sleeps on another core pays for waking that core.
 *
 * With --rate the loop is open: requests become due at random (exponential gaps, rate a second on average) whatever became
 * of those before. One that is due takes an idle connection and is sent. Where there is none, or the loader itself is too
 * slow, it is never sent, and counted as unsent: it does not wait here, since a queue in the loader would be measured as the
 * peer's slowness. A request without
 * its whole reply --patience seconds after it was sent is late: its client gives up, closes the connection and opens
 * another. Latencies run from when a request was sent; what passed between due and sent is the loader's own lag, which is
 * reported apart. 503 replies are counted apart from other failures. With --lead the load lasts so many seconds longer, and what
 * happens in those, or after the last request was sent, is not counted: neither how a queue builds up nor how it empties. Failures
 * always are, and `answered` has every right reply.
 *
 * The requests file: uint32 count, count x uint32 head length (little endian), then the heads. The body file, if any,
 * follows every head. The result is one line of JSON on stdout; exit 0 unless the arguments or files are unusable.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_BYTES_MAX = 65536, /* of a reply's head, together with the start of its body */
    CONNECTIONS_MAX = 16384,
    FAILURES_MAX = 1000, /* then the run is given up: the peer is not there */
    DRAIN_S = 20,        /* for requests under way at the deadline */
    SUB_BUCKETS = 64,    /* of a power of two: latencies are kept to 1.6 % */
    SENDING_NS_MAX = 2000000, /* open loop: then it is looked for replies */
    LAG_NS_MAX = 20000000,    /* open loop: what could not be sent so soon is not sent */
};

struct connection {
    int fd;
    int wants_write;
    int busy;
    int closes; /* the peer said so */
    size_t request;
    size_t sent;
    size_t head_used;
    int head_done;
    int status;
    int64_t body_bytes; /* as stated by the reply */
    int64_t body_left;
    int answered; /* the first byte of the reply is there */
    uint64_t started_ns, first_ns;
    uint64_t turn; /* of the requests of this connection, to tell whether one is still under way */
    struct connection *next_idle;
    int idle; /* in the list of idle connections */
    char head[HEAD_BYTES_MAX];
};

static struct sockaddr_in address;
static int epoll_fd;
static int is_head;
static int is_awake;
static int is_once;
static const char *reply_prefix; /* not HTTP: how every right reply begins */
static size_t prefix_bytes;
static int64_t reply_bytes; /* and its length */
static int expect_status = 200; /* 2: any of 200 to 299 */
static int64_t expect_bytes = -1; /* -1: any */
static size_t request_count;
static const char **requests;
static size_t *request_bytes;
static const char *body = "";
static size_t body_bytes;

static uint64_t ok_count, answered_count, bad_count, body_total, connect_count;
static char first_bad[160];
static uint64_t latency[64 * SUB_BUCKETS], first_byte[64 * SUB_BUCKETS], refusal_latency[64 * SUB_BUCKETS],
    own_lag[64 * SUB_BUCKETS];
static uint64_t latency_max_ns;
static uint64_t refused_count, late_count, sent_count, unsent_count; /* open loop */
static double rate;                                   /* 0: closed loop */
static uint64_t patience_ns = UINT64_MAX, next_due_ns;
static struct connection *idle_list;
static struct waiting { /* of the requests sent, in their order: who gives up next */
    struct connection *who;
    uint64_t turn, until_ns;
} *waiting;
static size_t waiting_size, waiting_first, waiting_count;
static uint64_t lead_ns, stop_ns;
static int is_counted = 1;
static size_t next_request;

static void fatal(const char *what)
{
    fprintf(stderr, "loadgen: %s: %s\n", what, errno ? strerror(errno) : "bad value");
    exit(2);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Bucket of a value, exact below SUB_BUCKETS, then SUB_BUCKETS to each power of two. */
static size_t bucket_of(uint64_t value)
{
    if (value < SUB_BUCKETS)
        return value;
    int top = 63 - __builtin_clzll(value);
    return (size_t)(top - 5) * SUB_BUCKETS + ((value >> (top - 6)) & (SUB_BUCKETS - 1));
}

static uint64_t bucket_floor(size_t bucket)
{
    if (bucket < SUB_BUCKETS)
        return bucket;
    int top = (int)(bucket / SUB_BUCKETS) + 5;
    return (1ull << top) + ((uint64_t)(bucket % SUB_BUCKETS) << (top - 6));
}

static double percentile_us(const uint64_t *counts, uint64_t total, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)total), seen = 0;
    for (size_t i = 0; i < sizeof latency / sizeof *latency; i++) {
        seen += counts[i];
        if (seen > wanted)
            return (double)bucket_floor(i) / 1000.0;
    }
    return (double)latency_max_ns / 1000.0;
}

static void bad(const char *why, const char *detail, size_t length)
{
    bad_count++;
    if (first_bad[0])
        return;
    char shown[100];
    size_t n = 0;
    for (; n < length && n < sizeof shown - 1 && detail[n] != '\r' && detail[n] != '\n'; n++)
        shown[n] = detail[n] < 32 || detail[n] > 126 || detail[n] == '"' || detail[n] == '\\' ? '?' : detail[n];
    shown[n] = 0;
    snprintf(first_bad, sizeof first_bad, "%s: %s", why, shown);
}

static void watch(struct connection *c, int operation, int writing)
{
    struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    c->wants_write = writing;
    if (epoll_ctl(epoll_fd, operation, c->fd, &event))
        fatal("epoll_ctl");
}

static void put_idle(struct connection *c)
{
    if (c->idle)
        return;
    c->idle = 1;
    c->next_idle = idle_list;
    idle_list = c;
}

static void open_connection(struct connection *c)
{
    int on = 1;
    if (rate)
        put_idle(c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fatal("socket");
    connect_count++;
    c->busy = 0;
    /* An open loop must not stand still while a server that is too busy leaves a connection waiting. */
    if (rate)
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) {
        bad("connect", strerror(errno), 99);
        close(c->fd);
        c->fd = -1;
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLL_CTL_ADD, 0);
}

static void reopen(struct connection *c)
{
    if (c->fd >= 0)
        close(c->fd);
    open_connection(c);
}

/* Sends what the socket takes of the request. Returns -1 when the connection is lost. */
static int send_more(struct connection *c)
{
    size_t head = request_bytes[c->request], total = head + body_bytes;
    while (c->sent < total) {
        struct iovec parts[2];
        int count = 0;
        if (c->sent < head)
            parts[count++] = (struct iovec){(void *)(requests[c->request] + c->sent), head - c->sent};
        size_t of_body = c->sent > head ? c->sent - head : 0;
        if (of_body < body_bytes)
            parts[count++] = (struct iovec){(void *)(body + of_body), body_bytes - of_body};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
        ssize_t n = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!c->wants_write)
                watch(c, EPOLL_CTL_MOD, 1);
            return 0;
        }
        if (n < 0)
            return -1;
        c->sent += (size_t)n;
    }
    if (c->wants_write)
        watch(c, EPOLL_CTL_MOD, 0);
    return 0;
}

static void start_request(struct connection *c, uint64_t now)
{
    /* Finish what was begun and begin nothing after the deadline. */
    if (now >= stop_ns || (bad_count >= FAILURES_MAX && !rate) || c->fd < 0 || (is_once && next_request >= request_count))
        return;
    c->request = next_request++ % request_count;
    c->sent = c->head_used = 0;
    c->head_done = c->answered = 0;
    c->busy = 1;
    c->started_ns = now;
    if (send_more(c) < 0) {
        bad("send", strerror(errno), 99);
        reopen(c);
    }
}

/* Until the next request is due: an exponential gap, from xorshift64* with a fixed seed. */
static uint64_t gap_ns(void)
{
    static uint64_t state = 0x9E3779B97F4A7C15u;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    double share = ((double)(state * 0x2545F4914F6CDD1Du >> 11) + 1.0) / 9007199254740993.0; /* above 0, below 1 */
    return (uint64_t)(-log(share) * 1e9 / rate);
}

/* Open loop: sends what is due on the connections that are idle. */
static void send_due(uint64_t now)
{
    for (; next_due_ns <= now && next_due_ns < stop_ns; next_due_ns += gap_ns()) {
        struct connection *c = idle_list;
        if (c && now_ns() > now + SENDING_NS_MAX)
            return; /* replies first */
        if (!c || next_due_ns + LAG_NS_MAX < now) {
            unsent_count += is_counted;
            continue;
        }
        if (c->fd < 0)
            open_connection(c);
        if (c->fd < 0) {
            unsent_count += is_counted; /* it failed a moment ago: the next round tries again */
            continue;
        }
        uint64_t sent_ns = now_ns();
        if (sent_ns >= stop_ns)
            return;
        idle_list = c->next_idle;
        c->idle = 0;
        own_lag[bucket_of(sent_ns - next_due_ns)] += is_counted;
        sent_count += is_counted;
        c->turn++;
        if (patience_ns != UINT64_MAX) {
            if (waiting_count == waiting_size)
                fatal("too many requests that wait");
            waiting[(waiting_first + waiting_count++) % waiting_size] =
                (struct waiting){c, c->turn, sent_ns + patience_ns};
        }
        start_request(c, sent_ns);
    }
}

/* Open loop: the clients whose patience is over leave. */
static void give_up(uint64_t now)
{
    for (; waiting_count; waiting_count--) {
        struct waiting *next = &waiting[waiting_first];
        if (next->who->busy && next->who->turn == next->turn) {
            if (next->until_ns > now)
                return;
            late_count += is_counted;
            reopen(next->who);
        }
        waiting_first = (waiting_first + 1) % waiting_size;
    }
}

static int64_t header_number(const char *head, size_t length, const char *name)
{
    size_t name_length = strlen(name);
    const char *line = head, *end = head + length;
    while ((line = memchr(line, '\n', (size_t)(end - line)))) {
        line++;
        if ((size_t)(end - line) > name_length && !strncasecmp(line, name, name_length))
            return strtoll(line + name_length, NULL, 10);
    }
    return -1;
}

/* Parses the head once all of it is there. Returns its length, 0 for not yet, -1 for not understood. */
static ssize_t parse_http(struct connection *c)
{
    char *end = memmem(c->head, c->head_used, "\r\n\r\n", 4);
    if (!end)
        return c->head_used == HEAD_BYTES_MAX ? -1 : 0;
    size_t length = (size_t)(end - c->head) + 4;
    if (length < 16 || memcmp(c->head, "HTTP/1.", 7))
        return -1;
    c->status = atoi(c->head + 9);
    c->closes = memmem(c->head, length, "onnection: close", 16) != NULL;
    c->body_bytes = header_number(c->head, length, "content-length:");
    if (c->status / 100 == 1 || c->status == 204 || c->status == 304)
        c->body_bytes = 0;
    if (c->body_bytes < 0)
        return -1;
    c->body_left = is_head ? 0 : c->body_bytes;
    return (ssize_t)length;
}

/* Another protocol's reply: right if it begins as told; then it is as long as told. */
static ssize_t parse_known(struct connection *c)
{
    size_t compared = c->head_used < prefix_bytes ? c->head_used : prefix_bytes;
    if (memcmp(c->head, reply_prefix, compared))
        return -1;
    if (compared < prefix_bytes)
        return 0;
    c->closes = 0;
    c->status = expect_status;
    c->body_bytes = expect_bytes;
    c->body_left = reply_bytes - (int64_t)prefix_bytes;
    return (ssize_t)prefix_bytes;
}

static int is_expected(int status)
{
    return expect_status < 10 ? status / 100 == expect_status : status == expect_status;
}

static void reply_done(struct connection *c)
{
    uint64_t now = now_ns(), took = now - c->started_ns;
    c->busy = 0;
    if (rate && c->status == 503) {
        refused_count += is_counted;
        refusal_latency[bucket_of(took)] += is_counted;
    } else if (took > patience_ns)
        late_count += is_counted;
    else if (!is_expected(c->status))
        bad("status", c->head, c->head_used);
    else if (expect_bytes >= 0 && c->body_bytes != expect_bytes)
        bad("length", c->head, c->head_used);
    else if (c->sent < request_bytes[c->request] + body_bytes)
        bad("reply before the end of the request", c->head, c->head_used);
    else if (answered_count++, is_counted) {
        ok_count++;
        body_total += is_head || c->body_bytes < 0 ? 0 : (uint64_t)c->body_bytes;
        latency[bucket_of(took)]++;
        first_byte[bucket_of(c->first_ns - c->started_ns)]++;
        if (took > latency_max_ns)
            latency_max_ns = took;
    }
    if (c->closes || c->sent < request_bytes[c->request] + body_bytes)
        reopen(c);
    if (!rate)
        start_request(c, now);
    else
        put_idle(c);
}

/* Reads what has arrived. Returns -1 when the connection is lost or the reply is not understood. */
static int receive_more(struct connection *c)
{
    for (;;) {
        ssize_t n;
        if (!c->head_done)
            n = recv(c->fd, c->head + c->head_used, HEAD_BYTES_MAX - c->head_used, 0);
        else
            n = recv(c->fd, c->head, (size_t)c->body_left, MSG_TRUNC); /* discards; nothing is written to the buffer */
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return 0;
        if (n <= 0 || !c->busy)
            return -1;
        if (!c->answered) {
            c->answered = 1;
            c->first_ns = now_ns();
        }
        if (c->head_done) {
            c->body_left -= n;
        } else {
            c->head_used += (size_t)n;
            ssize_t length = reply_prefix ? parse_known(c) : parse_http(c);
            if (length < 0)
                return -1;
            if (length == 0)
                continue;
            int64_t more = (int64_t)c->head_used - length;
            if (c->status == 100) {
                memmove(c->head, c->head + length, (size_t)more);
                c->head_used = (size_t)more;
                continue;
            }
            if (more > c->body_left)
                return -1; /* bytes nobody asked for */
            c->body_left -= more;
            c->head_done = 1;
        }
        if (c->body_left == 0) {
            reply_done(c);
            return 0;
        }
    }
}

static const char *map_file(const char *path, size_t *length)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0 || fstat(fd, &info))
        fatal(path);
    *length = (size_t)info.st_size;
    if (!*length)
        return "";
    void *start = mmap(NULL, *length, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (start == MAP_FAILED)
        fatal(path);
    close(fd);
    return start;
}

static void load_requests(const char *path)
{
    size_t length, offset;
    const char *file = map_file(path, &length);
    uint32_t count, size;
    if (length < 4)
        fatal("requests file");
    memcpy(&count, file, 4);
    offset = 4 + 4 * (size_t)count;
    if (!count || offset > length)
        fatal("requests file");
    request_count = count;
    requests = calloc(count, sizeof *requests);
    request_bytes = calloc(count, sizeof *request_bytes);
    for (size_t i = 0; i < count; i++) {
        memcpy(&size, file + 4 + 4 * i, 4);
        if (offset + size > length)
            fatal("requests file");
        requests[i] = file + offset;
        request_bytes[i] = size;
        offset += size;
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, 0, 'p'},       {"connections", required_argument, 0, 'c'},
        {"seconds", required_argument, 0, 's'},    {"requests", required_argument, 0, 'r'},
        {"body", required_argument, 0, 'b'},       {"reply-prefix", required_argument, 0, 'P'},
        {"head", no_argument, 0, 'H'},             {"expect-status", required_argument, 0, 'S'},
        {"expect-bytes", required_argument, 0, 'L'}, {"host", required_argument, 0, 'h'},
        {"reply-bytes", required_argument, 0, 'B'}, {"once", no_argument, 0, 'o'},
        {"rate", required_argument, 0, 'r' + 256}, {"patience", required_argument, 0, 'w'},
        {"awake", no_argument, 0, 'a'},            {"lead", required_argument, 0, 'l'},
        {0},
    };
    int connections = 1, port = 0, option;
    double seconds = 1;
    const char *requests_path = NULL, *host = "127.0.0.1";
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'c': connections = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'r': requests_path = optarg; break;
        case 'b': body = map_file(optarg, &body_bytes); break;
        case 'P': reply_prefix = optarg; prefix_bytes = strlen(optarg); break;
        case 'B': reply_bytes = atoll(optarg); break;
        case 'o': is_once = 1; break;
        case 'H': is_head = 1; break;
        case 'a': is_awake = 1; break;
        case 'l': lead_ns = (uint64_t)(atof(optarg) * 1e9); break;
        case 'S': expect_status = atoi(optarg); break;
        case 'L': expect_bytes = atoll(optarg); break;
        case 'h': host = optarg; break;
        case 'r' + 256: rate = atof(optarg); break;
        case 'w': patience_ns = (uint64_t)(atof(optarg) * 1e9); break;
        default: return 2;
        }
    }
    errno = 0;
    if (reply_prefix && reply_bytes < (int64_t)prefix_bytes)
        fatal("reply-bytes");
    if (!requests_path || port <= 0 || port > 65535 || connections < 1 || connections > CONNECTIONS_MAX || seconds <= 0)
        fatal("arguments");
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)port);
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1)
        fatal("host (an IPv4 address)");
    load_requests(requests_path);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc((size_t)connections, sizeof *all);
    /* Those answered leave it no sooner than those before them. */
    waiting_size = (size_t)connections + 65536;
    if (patience_ns != UINT64_MAX)
        waiting_size += (size_t)(1.5 * rate * (double)patience_ns / 1e9);
    waiting = !rate || patience_ns == UINT64_MAX ? NULL : calloc(waiting_size, sizeof *waiting);
    if (!all || epoll_fd < 0 || (rate && patience_ns != UINT64_MAX && !waiting))
        fatal("memory");
    for (int i = 0; i < connections; i++)
        open_connection(&all[i]);
    uint64_t begin = now_ns(), now = begin;
    next_due_ns = begin + (rate ? gap_ns() : 0);
    stop_ns = begin + lead_ns + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < connections && !rate; i++)
        start_request(&all[i], begin);
    for (;;) {
        int busy = 0;
        for (int i = 0; i < connections && !busy; i++)
            busy = all[i].busy;
        now = now_ns();
        if ((!busy && (!rate || now >= stop_ns)) || now > stop_ns + DRAIN_S * 1000000000ull)
            break;
        if (lead_ns)
            is_counted = now >= begin + lead_ns && now < stop_ns;
        if (rate) {
            give_up(now);
            send_due(now);
        }
        struct epoll_event events[64];
        int count = epoll_wait(epoll_fd, events, 64, is_awake ? 0 : rate ? 1 : 100);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
                if (receive_more(c) < 0) {
                    int was_busy = c->busy; /* an idle connection may be closed; its requests are not lost */
                    if (was_busy)
                        bad("connection lost or reply not understood", c->head, c->head_used);
                    reopen(c);
                    if (was_busy && !rate)
                        start_request(c, now_ns());
                    continue;
                }
            }
            if ((events[i].events & EPOLLOUT) && c->busy && c->wants_write && send_more(c) < 0) {
                bad("send", strerror(errno), 99);
                reopen(c);
                if (!rate)
                    start_request(c, now_ns());
            }
        }
    }
    for (int i = 0; i < connections; i++)
        if (all[i].busy)
            bad("no reply", "", 0);
    printf("{\"seconds\": %.6f, \"ok\": %llu, \"answered\": %llu, \"bad\": %llu, \"first_bad\": \"%s\", \"body_bytes\": %llu, "
           "\"connects\": %llu, \"first_byte_us\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, "
           "\"p999_us\": %.1f, \"max_us\": %.1f, "
           "\"refused\": %llu, \"refused_p50_us\": %.1f, \"refused_p99_us\": %.1f, \"late\": %llu, "
           "\"sent\": %llu, \"unsent\": %llu, \"lag_p99_us\": %.1f}\n",
           lead_ns ? seconds : (double)(now - begin) / 1e9, (unsigned long long)ok_count,
           (unsigned long long)answered_count, (unsigned long long)bad_count, first_bad,
           (unsigned long long)body_total, (unsigned long long)connect_count, percentile_us(first_byte, ok_count, 0.5),
           percentile_us(latency, ok_count, 0.5), percentile_us(latency, ok_count, 0.9),
           percentile_us(latency, ok_count, 0.99), percentile_us(latency, ok_count, 0.999),
           (double)latency_max_ns / 1000.0, (unsigned long long)refused_count,
           percentile_us(refusal_latency, refused_count, 0.5), percentile_us(refusal_latency, refused_count, 0.99),
           (unsigned long long)late_count, (unsigned long long)sent_count, (unsigned long long)unsent_count,
           percentile_us(own_lag, sent_count, 0.99));
    return 0;
}
