/* A server of streamed answers whose timing is known: it sends tokens when it was told to, and logs when it did.
 *
 * One thread: epoll, and one timerfd for whoever is due next. HTTP/1.1 with keep-alive, on loopback only. It speaks
 * Ollama's NDJSON and OpenAI's server-sent events. All times are CLOCK_MONOTONIC, the clock of Python's monotonic() and
 * perf_counter(), so they can be held against those of a client on the same machine.
 *
 *     truth [--port N] [--ttft-ms MS] [--gap-ms MS] [--tokens N] [--per-send N] [--cpu N] [--model NAME] [--log FILE]
 *
 * It prints "port N" when it listens, and writes the log (CSV, a line for each request) on SIGTERM or SIGINT.
 * A request that names fewer or more tokens (num_predict, max_tokens, max_completion_tokens) gets those.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { OTHER, GENERATE, CHAT, OPENAI_CHAT, OPENAI_TEXT, DIALECTS };
static const char *const NAMES[DIALECTS] = {"other", "generate", "chat", "openai-chat", "openai-text"};
static const char *const PATHS[DIALECTS] = {
    "", "/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions",
};

enum {
    BATCH = 8,               /* sends between two looks at what came in: a receipt is stamped late by no more */
    EVENTS = 64,
    READ = 1 << 16,
    MOST_REQUEST = 16 << 20, /* bytes */
    MOST_TOKENS = 1 << 20,
    BYTES_PER_TOKEN = 4,     /* of what is asked: it says how many tokens a prompt has */
    LOAD_NS = 1000000,       /* told as load_duration: a warm model's */
};

typedef struct {
    int connection, dialect, asked, tokens;
    int64_t received, head, first, last;
} Row;

typedef struct {
    char *data;
    size_t length, room;
} Bytes;

typedef struct {
    int fd, number, prompt_tokens;
    bool busy, usage, blocked, closing;
    Bytes in, out;
    size_t sent, row, heap_at; /* heap_at counts from 1; 0 is outside */
    int64_t due;
    uint64_t turn;
} Connection;

static int port, tokens = 32, per_send = 1, cpu = -1;
static int64_t ttft_ns = 100000000, gap_ns = 20000000;
static const char *model = "truth", *log_name;

static int epoll_fd, timer_fd, signal_fd, listen_fd, connections;
static Row *rows;
static size_t row_count, row_room;
static Connection **heap; /* from 1 */
static size_t heap_count, heap_room;
static uint64_t turns;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

static void *grown(void *old, size_t bytes) {
    void *fresh = realloc(old, bytes);
    if (!fresh) die("realloc");
    return fresh;
}

/* ---- texts */

static void reserve(Bytes *to, size_t more) {
    if (to->length + more <= to->room) return;
    to->room = 2 * (to->length + more);
    to->data = grown(to->data, to->room);
}

static void append(Bytes *to, const char *data, size_t length) {
    reserve(to, length);
    memcpy(to->data + to->length, data, length);
    to->length += length;
}

__attribute__((format(printf, 2, 3))) static void print(Bytes *to, const char *format, ...) {
    va_list arguments;
    reserve(to, 1024);
    va_start(arguments, format);
    int length = vsnprintf(to->data + to->length, to->room - to->length, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= to->room - to->length) die("a text longer than its room");
    to->length += (size_t)length;
}

static Bytes *fresh(void) {
    static Bytes scratch;
    scratch.length = 0;
    return &scratch;
}

/* ---- who is due next: a heap; among those due at one time, whoever waited longest */

static bool before(const Connection *a, const Connection *b) {
    return a->due != b->due ? a->due < b->due : a->turn < b->turn;
}

static void put(size_t at, Connection *one) {
    heap[at] = one;
    one->heap_at = at;
}

static void settle(size_t at, Connection *one) {
    for (; at > 1 && before(one, heap[at / 2]); at /= 2) put(at, heap[at / 2]);
    for (size_t child = 2 * at; child <= heap_count; child = 2 * at) {
        if (child < heap_count && before(heap[child + 1], heap[child])) child++;
        if (!before(heap[child], one)) break;
        put(at, heap[child]);
        at = child;
    }
    put(at, one);
}

static void schedule(Connection *one) {
    if (heap_count + 2 > heap_room) {
        heap_room = 2 * heap_room + 64;
        heap = grown(heap, heap_room * sizeof *heap);
    }
    one->turn = turns++;
    heap_count++;
    settle(heap_count, one);
}

static void unschedule(Connection *one) {
    size_t at = one->heap_at;
    if (!at) return;
    Connection *last = heap[heap_count--];
    one->heap_at = 0;
    if (last != one) settle(at, last);
}

static void arm(void) {
    static int64_t armed;
    int64_t due = heap_count ? heap[1]->due : 0;
    if (due == armed) return;
    armed = due;
    struct itimerspec at = {.it_value = {due / 1000000000, due % 1000000000}};
    if (timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL)) die("timerfd_settime");
}

/* ---- what is said */

static void chunk(Bytes *to, const Bytes *payload) {
    print(to, "%zx\r\n", payload->length);
    append(to, payload->data, payload->length);
    append(to, "\r\n", 2);
}

static void say_event(Bytes *to, int dialect, const char *choice, const char *usage) {
    const char *kind = dialect == OPENAI_CHAT ? "chat.completion.chunk" : "text_completion";
    Bytes *text = fresh();
    print(text, "data: {\"id\":\"truth-1\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"%s\",", kind, model);
    print(text, "\"choices\":[%s]%s}\n\n", choice, usage);
    chunk(to, text);
}

static Bytes *start_line(int dialect, const char *word) {
    Bytes *text = fresh();
    print(text, "{\"model\":\"%s\",\"created_at\":\"2025-01-01T00:00:00.000000Z\",", model);
    if (dialect == GENERATE) print(text, "\"response\":\"%s\",", word);
    else print(text, "\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},", word);
    return text;
}

static void say_token(Bytes *to, int dialect) {
    if (dialect == OPENAI_CHAT) {
        say_event(to, dialect, "{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}", "");
    } else if (dialect == OPENAI_TEXT) {
        say_event(to, dialect, "{\"index\":0,\"text\":\" word\",\"logprobs\":null,\"finish_reason\":null}", "");
    } else {
        Bytes *text = start_line(dialect, " word");
        print(text, "\"done\":false}\n");
        chunk(to, text);
    }
}

static void say_done(Connection *one, const Row *row) {
    Bytes *text = start_line(row->dialect, "");
    int64_t read = row->first - row->received - LOAD_NS, wrote = row->last - row->first;
    print(text, "\"done\":true,\"done_reason\":\"length\",\"total_duration\":%" PRId64 ",", row->last - row->received);
    print(text, "\"load_duration\":%d,\"prompt_eval_count\":%d,", LOAD_NS, one->prompt_tokens);
    print(text, "\"prompt_eval_duration\":%" PRId64 ",\"eval_count\":%d,", read > 0 ? read : 1, row->tokens);
    print(text, "\"eval_duration\":%" PRId64 "}\n", wrote > 0 ? wrote : 1);
    chunk(&one->out, text);
}

static void say_finish(Connection *one, const Row *row) {
    const char *empty = row->dialect == OPENAI_CHAT ? "\"delta\":{}" : "\"text\":\"\",\"logprobs\":null";
    char text[256];
    snprintf(text, sizeof text, "{\"index\":0,%s,\"finish_reason\":\"length\"}", empty);
    say_event(&one->out, row->dialect, text, "");
    if (one->usage) {
        const char *usage = ",\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}";
        int asked = one->prompt_tokens, said = row->tokens;
        snprintf(text, sizeof text, usage, asked, said, asked + said);
        say_event(&one->out, row->dialect, "", text);
    }
    append(&one->out, "e\r\ndata: [DONE]\n\n\r\n", 19);
}

static void say_head(Connection *one, int dialect) {
    const char *type = dialect == GENERATE || dialect == CHAT ? "application/x-ndjson" : "text/event-stream";
    print(&one->out, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", type);
    if (dialect == OPENAI_CHAT)
        say_event(&one->out, dialect,
                  "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}", "");
}

static void say_whole(Bytes *to, const char *status, bool head_only, const Bytes *body) {
    print(to, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", status, body->length);
    if (!head_only) append(to, body->data, body->length);
}

/* What clients ask before they begin. */
static const char *say_other(Bytes *to, const char *path) {
    const char *details =
        "\"details\":{\"family\":\"llama\",\"parameter_size\":\"1B\",\"quantization_level\":\"Q4_0\"}";
    if (!strcmp(path, "/api/version")) {
        print(to, "{\"version\":\"0.32.15\"}");
    } else if (!strcmp(path, "/api/tags") || !strcmp(path, "/api/ps")) {
        print(to, "{\"models\":[{\"name\":\"%s\",\"model\":\"%s\",\"size\":1,\"size_vram\":1,", model, model);
        print(to, "\"digest\":\"0\",%s}]}", details);
    } else if (!strcmp(path, "/api/show")) {
        print(to, "{%s,\"model_info\":{\"general.architecture\":\"llama\",\"llama.context_length\":4096},", details);
        print(to, "\"capabilities\":[\"completion\"]}");
    } else if (!strcmp(path, "/v1/models")) {
        print(to, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":0,", model);
        print(to, "\"owned_by\":\"truth\"}]}");
    } else if (!strcmp(path, "/health") || !strcmp(path, "/")) {
        print(to, "{}");
    } else {
        print(to, "{\"error\":\"there is no such path here\"}");
        return "404 Not Found";
    }
    return "200 OK";
}

/* ---- connections */

static void drop(Connection *one) {
    unschedule(one);
    close(one->fd);
    free(one->in.data);
    free(one->out.data);
    free(one);
}

static void watch(Connection *one, bool blocked) {
    struct epoll_event event = {.events = blocked ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = one};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, one->fd, &event)) die("epoll_ctl");
    one->blocked = blocked;
}

/* Whether the connection is still there. What the socket does not take now waits for EPOLLOUT. */
static bool flush(Connection *one) {
    while (one->sent < one->out.length) {
        ssize_t took = send(one->fd, one->out.data + one->sent, one->out.length - one->sent, MSG_NOSIGNAL);
        if (took < 0 && errno == EAGAIN) {
            if (!one->blocked) watch(one, true);
            return true;
        }
        if (took < 0 && errno != EINTR) return false;
        if (took > 0) one->sent += (size_t)took;
    }
    one->out.length = one->sent = 0;
    if (one->blocked) watch(one, false);
    return true;
}

static Row *add_row(Connection *one, int dialect, int64_t received) {
    if (row_count == row_room) {
        row_room = 2 * row_room + 1024;
        rows = grown(rows, row_room * sizeof *rows);
    }
    one->row = row_count;
    rows[row_count] = (Row){.connection = one->number, .dialect = dialect, .received = received};
    return &rows[row_count++];
}

static void advance(Connection *one);

/* The next tokens of an answer, each a chunk; after the last its end, which is sent apart, as servers do. */
static void step(Connection *one) {
    Row *row = &rows[one->row];
    int count = row->asked - row->tokens < per_send ? row->asked - row->tokens : per_send;
    unschedule(one);
    for (int token = 0; token < count; token++) say_token(&one->out, row->dialect);
    row->last = now_ns();
    if (!row->first) row->first = row->last;
    row->tokens += count;
    bool alive = flush(one);
    if (alive && row->tokens < row->asked) {
        one->due += count * gap_ns;
        if (!one->blocked) schedule(one);
        return;
    }
    if (alive) {
        if (row->dialect == GENERATE || row->dialect == CHAT) say_done(one, row);
        else say_finish(one, row);
        alive = flush(one);
    }
    if (alive) {
        append(&one->out, "0\r\n\r\n", 5);
        alive = flush(one);
    }
    one->busy = false;
    if (alive) advance(one);
    else drop(one);
}

static int number_of(const char *body, const char *key, int otherwise) {
    const char *at = strstr(body, key);
    long long value = at ? strtoll(at + strlen(key), NULL, 10) : 0;
    return value > 0 && value <= MOST_TOKENS ? (int)value : otherwise;
}

static bool says(const char *body, const char *key, bool otherwise) {
    const char *at = strstr(body, key);
    return at ? at[strlen(key) + strspn(at + strlen(key), " ")] == 't' : otherwise;
}

/* A body is searched for keys, not parsed: a quote inside a prompt is escaped, so no prompt can look like a key. */
static bool begin(Connection *one, int dialect, const char *body, size_t length, int64_t received) {
    bool openai = dialect == OPENAI_CHAT || dialect == OPENAI_TEXT;
    Row *row = add_row(one, dialect, received);
    one->prompt_tokens = 1 + (int)(length / BYTES_PER_TOKEN);
    one->usage = says(body, "\"include_usage\":", false);
    if (!says(body, "\"stream\":", !openai)) {
        Bytes *told = fresh();
        print(told, "{\"error\":\"this server only streams\"}");
        say_whole(&one->out, "400 Bad Request", false, told);
        return flush(one);
    }
    row->asked = number_of(body, "\"num_predict\":", tokens);
    if (openai) row->asked = number_of(body, "\"max_tokens\":", number_of(body, "\"max_completion_tokens\":", tokens));
    say_head(one, dialect);
    one->busy = true;
    one->due = received + ttft_ns;
    row->head = now_ns();
    if (!flush(one)) return false;
    if (!one->blocked) schedule(one);
    return true;
}

static bool answer(Connection *one, char *head, const char *body, size_t length, int64_t received) {
    char method[8] = "", path[128] = "";
    sscanf(head, "%7s %127[^ ?]", method, path);
    one->closing = strcasestr(head, "\r\nconnection: close") != NULL;
    for (int dialect = GENERATE; dialect < DIALECTS && !strcmp(method, "POST"); dialect++)
        if (!strcmp(path, PATHS[dialect])) return begin(one, dialect, body, length, received);
    Bytes *told = fresh();
    const char *status = say_other(told, path);
    Row *row = add_row(one, OTHER, received);
    say_whole(&one->out, status, !strcmp(method, "HEAD"), told);
    row->head = row->first = row->last = now_ns();
    return flush(one);
}

/* Whether a whole request is there: its head is ended, and so is the body that the head announces. */
static bool whole(const Bytes *in, size_t *head, size_t *length) {
    const char *end = in->length ? memmem(in->data, in->length, "\r\n\r\n", 4) : NULL;
    if (!end) return false;
    const char *told = strcasestr(in->data, "\r\ncontent-length:");
    *head = (size_t)(end - in->data) + 4;
    *length = told && told < end ? strtoul(told + 17, NULL, 10) : 0;
    return in->length >= *head + *length;
}

/* Take up what has come in, unless an answer is under way; the input ends with a zero that is not counted. */
static void advance(Connection *one) {
    size_t head, length;
    int64_t received = now_ns();
    while (!one->busy && whole(&one->in, &head, &length)) {
        Bytes *in = &one->in;
        char *body = in->data + head, kept = body[length];
        bool alive;
        in->data[head - 1] = body[length] = 0;
        alive = answer(one, in->data, body, length, received);
        body[length] = kept;
        in->length -= head + length;
        memmove(in->data, body + length, in->length + 1);
        if (!alive) {
            drop(one);
            return;
        }
    }
    if (one->closing && !one->busy && !one->out.length) drop(one);
}

static void receive(Connection *one) {
    reserve(&one->in, READ + 1);
    ssize_t got = recv(one->fd, one->in.data + one->in.length, READ, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0 || one->in.length > MOST_REQUEST) {
        drop(one);
        return;
    }
    one->in.length += (size_t)got;
    one->in.data[one->in.length] = 0;
    advance(one);
}

static void relieve(Connection *one) {
    if (!flush(one)) drop(one);
    else if (!one->blocked && one->busy) schedule(one);
    else if (!one->blocked && one->closing) drop(one);
}

static void welcome(void) {
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1;
        if (fd < 0) return;
        Connection *one = grown(NULL, sizeof *one);
        *one = (Connection){.fd = fd, .number = ++connections};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

/* ---- its life */

static void write_log(void) {
    FILE *file = log_name ? fopen(log_name, "w") : NULL;
    if (log_name && !file) die(log_name);
    if (!file) return;
    fprintf(file, "connection,dialect,asked,tokens,received_ns,head_ns,first_ns,last_ns\n");
    for (const Row *row = rows; row < rows + row_count; row++)
        fprintf(file, "%d,%s,%d,%d,%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 "\n", row->connection,
                NAMES[row->dialect], row->asked, row->tokens, row->received, row->head, row->first, row->last);
    if (fclose(file)) die(log_name);
}

static void look(int timeout_ms) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    for (int at = 0; at < count; at++) {
        void *who = events[at].data.ptr;
        if (who == &signal_fd) {
            write_log();
            exit(0);
        }
        if (who == &listen_fd) welcome();
        else if (who != &timer_fd && events[at].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(who);
        else if (who != &timer_fd) relieve(who);
    }
}

static void send_due(void) {
    for (int count = 1; heap_count && heap[1]->due <= now_ns(); count++) {
        step(heap[1]);
        if (count % BATCH == 0) look(0);
    }
}

static void watch_own(int fd, void *who, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = who};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

static void open_port(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof at;
    int on = 1;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listen_fd, (struct sockaddr *)&at, size) || listen(listen_fd, 4096)) die("listen");
    if (getsockname(listen_fd, (struct sockaddr *)&at, &size)) die("getsockname");
    printf("port %d\n", ntohs(at.sin_port));
    fflush(stdout);
}

static void prepare(void) {
    struct rlimit files;
    sigset_t ends;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set)) die("sched_setaffinity");
    }
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    sigprocmask(SIG_BLOCK, &ends, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* it ends with whoever started it */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    signal_fd = signalfd(-1, &ends, SFD_CLOEXEC);
    if (epoll_fd < 0 || timer_fd < 0 || signal_fd < 0) die("epoll, timerfd or signalfd");
    open_port();
    watch_own(listen_fd, &listen_fd, EPOLLIN);
    watch_own(signal_fd, &signal_fd, EPOLLIN);
    watch_own(timer_fd, &timer_fd, EPOLLIN | EPOLLET); /* edges: so its count need not be read away */
}

static void read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"port", 1, NULL, 'p'},   {"ttft-ms", 1, NULL, 't'}, {"gap-ms", 1, NULL, 'g'}, {"tokens", 1, NULL, 'n'},
        {"per-send", 1, NULL, 's'}, {"cpu", 1, NULL, 'c'},     {"model", 1, NULL, 'm'},  {"log", 1, NULL, 'l'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 't') ttft_ns = (int64_t)(1e6 * atof(optarg));
        else if (option == 'g') gap_ns = (int64_t)(1e6 * atof(optarg));
        else if (option == 'n') tokens = atoi(optarg);
        else if (option == 's') per_send = atoi(optarg);
        else if (option == 'c') cpu = atoi(optarg);
        else if (option == 'm') model = optarg;
        else if (option == 'l') log_name = optarg;
        else exit(2);
    }
    if (optind < argc || tokens < 1 || per_send < 1 || ttft_ns < 0 || gap_ns < 0 || strlen(model) > 100) {
        fprintf(stderr, "%s: an option is wrong; the head of truth.c says which there are\n", argv[0]);
        exit(2);
    }
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    prepare();
    for (;;) {
        send_due();
        arm();
        look(-1);
    }
}
