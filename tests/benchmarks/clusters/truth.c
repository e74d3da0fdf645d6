/* A cluster under a closed loop, event by event.
 *
 * Users without think time, a balancer with its counters, a first-come-first-served queue in front of each instance,
 * and slots. An instance reads one prompt at a time; meanwhile its decoders go on at the share `phi` of their speed.
 * Between two events the set of busy slots is constant, so that decoding is one straight line: an instance has a count
 * of steps that grows at a constant rate, and a request that began at step v has its first token at v + 1 and its last
 * at v + its length. Nothing here knows how a table of step times came about.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define NEVER 1e300
#define STATS 7  /* n, mean, p50, p90, p95, p99, max */
#define EACH 10  /* figures of an instance */

enum { ROUND_ROBIN, LEAST_CONN, RANDOM_TWO };

typedef struct {
    int32_t users, instances, groups, width;
    int32_t policy, warm, requests, samples;
    uint64_t seed;
    double phi, overhead_s, serial_s;
    const int32_t *slots;         /* by instance */
    const int32_t *group;         /* by instance: those of one group share a device */
    const double *steps;          /* by instance and busy slots: seconds of a step, `width` a row */
    const double *base_s;         /* by instance: of each prompt */
    const double *token_s;        /* by instance: of each token of a prompt */
    const double *weights;        /* by instance: the balancer's */
    const double *crowd;          /* by busy instances of a group: a factor on all their times */
    const double *host;           /* by busy slots in all: a factor on all steps */
    const double *prompts, *answers; /* tokens, one after the other, from the start again after `samples` */
} Input;

typedef struct {
    double window_s, tokens_per_s, requests_per_s, busy, generating, in_flight, answers, prompt_tokens, answer_tokens;
    double ttft[STATS], tpot[STATS], e2e[STATS], queue[STATS], prefill[STATS];
} Output;

typedef struct {
    double v, v_rate, left_s, read_rate, last, next, target;
    double busy_s, decode_s, tokens;
    int waiting_head, waiting, fresh_head, fresh, reading, busy, decoding, connections, most;
} Instance;

typedef struct {
    double submitted, arrived, started, first, finished, answer, prompt, from;
    int instance, begun;
} Request;

typedef struct {
    const Input *in;
    Instance *instances;
    Request *requests;
    int *waiting, *fresh, *decoding; /* rings and lists, `users` a row */
    int *active, *dirty;             /* by group; by instance */
    int *road;                       /* requests between the balancer and their instance, a ring */
    double *turn;                    /* of smooth weighted round robin */
    double now, free_at, host;
    int road_head, on_road, submitted, finished, busy;
    uint64_t chance;
} Sim;

static double draw(Sim *sim) {
    sim->chance ^= sim->chance >> 12;
    sim->chance ^= sim->chance << 25;
    sim->chance ^= sim->chance >> 27;
    return (double)((sim->chance * 2685821657736338717ULL) >> 11) / 9007199254740992.0;
}

/* The instance whose turn it is, of those with `among` (all without it), as nginx's smooth weighted round robin. */
static int in_turn(Sim *sim, const int *among) {
    double total = 0;
    int best = -1;
    for (int j = 0; j < sim->in->instances; j++) {
        if (among && !among[j]) continue;
        sim->turn[j] += sim->in->weights[j];
        total += sim->in->weights[j];
        if (best < 0 || sim->turn[j] > sim->turn[best]) best = j;
    }
    sim->turn[best] -= total;
    return best;
}

static double load(const Sim *sim, int j) { return sim->instances[j].connections / sim->in->weights[j]; }

static int least(Sim *sim) {
    int among[sim->in->instances];
    double fewest = NEVER;
    for (int j = 0; j < sim->in->instances; j++) fewest = fmin(fewest, load(sim, j));
    for (int j = 0; j < sim->in->instances; j++) among[j] = load(sim, j) <= fewest;
    return in_turn(sim, among);
}

static int by_weight(Sim *sim, int but) {
    double total = 0;
    for (int j = 0; j < sim->in->instances; j++) total += j == but ? 0 : sim->in->weights[j];
    double left = draw(sim) * total;
    int last = -1;
    for (int j = 0; j < sim->in->instances; j++) {
        if (j == but) continue;
        last = j;
        left -= sim->in->weights[j];
        if (left < 0) break;
    }
    return last;
}

static int choose(Sim *sim) {
    if (sim->in->instances == 1) return 0;
    if (sim->in->policy == ROUND_ROBIN) return in_turn(sim, NULL);
    if (sim->in->policy == LEAST_CONN) return least(sim);
    int one = by_weight(sim, -1), other = by_weight(sim, one);
    return load(sim, other) < load(sim, one) ? other : one;
}

/* Bring an instance's clock to now. To be called before anything of it changes. */
static void sync(Sim *sim, int j) {
    Instance *it = &sim->instances[j];
    double dt = sim->now - it->last;
    if (dt > 0) {
        it->v += it->v_rate * dt;
        it->left_s -= it->read_rate * dt;
        it->tokens += it->decoding * it->v_rate * dt;
        it->busy_s += it->busy * dt;
        it->decode_s += it->decoding * dt;
    }
    it->last = sim->now;
}

static void aim(Sim *sim, int j) {
    Instance *it = &sim->instances[j];
    const Input *in = sim->in;
    double crowd = in->crowd[sim->active[in->group[j]]];
    it->v_rate = it->read_rate = 0;
    it->next = NEVER;
    if (it->reading >= 0) {
        it->read_rate = 1 / crowd;
        it->next = sim->now + fmax(0, it->left_s) * crowd;
    }
    if (it->decoding) {
        double step = in->steps[(size_t)j * in->width + it->decoding] * sim->host * crowd;
        it->v_rate = (it->reading >= 0 ? in->phi : 1) / step;
        if (it->v_rate > 0) it->next = fmin(it->next, sim->now + fmax(0, it->target - it->v) / it->v_rate);
    }
}

/* Free slots take who waits; whoever has a slot waits for his prompt to be read. */
static void fill(Sim *sim, int j) {
    Instance *it = &sim->instances[j];
    const int row = j * sim->in->users, users = sim->in->users;
    while (it->waiting && it->busy < sim->in->slots[j]) {
        int id = sim->waiting[row + it->waiting_head];
        it->waiting_head = (it->waiting_head + 1) % users;
        it->waiting--;
        sim->fresh[row + (it->fresh_head + it->fresh++) % users] = id;
        sim->requests[id].started = sim->now;
        if (it->busy++ == 0) sim->active[sim->in->group[j]]++;
        sim->busy++;
    }
    if (it->busy > it->most) it->most = it->busy;
    if (it->reading < 0 && it->fresh) {
        it->reading = sim->fresh[row + it->fresh_head];
        it->fresh_head = (it->fresh_head + 1) % users;
        it->fresh--;
        it->left_s = sim->in->base_s[j] + sim->in->token_s[j] * sim->requests[it->reading].prompt;
    }
}

static void arrive(Sim *sim, int id) {
    int j = sim->requests[id].instance;
    Instance *it = &sim->instances[j];
    sync(sim, j);
    sim->dirty[j] = 1;
    sim->requests[id].arrived = sim->now;
    sim->waiting[j * sim->in->users + (it->waiting_head + it->waiting++) % sim->in->users] = id;
    fill(sim, j);
}

static void submit(Sim *sim) {
    const Input *in = sim->in;
    int id = sim->submitted++;
    Request *it = &sim->requests[id];
    it->submitted = sim->now;
    it->prompt = in->prompts[id % in->samples];
    it->answer = in->answers[id % in->samples];
    /* users are in different phases from the start: the first answers are what is left of longer ones */
    if (id < in->users) it->answer = fmax(2, it->answer * fmod((id + 1) * 0.6180339887498949, 1.0));
    it->instance = choose(sim);
    sim->instances[it->instance].connections++;
    if (in->overhead_s <= 0 && in->serial_s <= 0) {
        arrive(sim, id);
        return;
    }
    sim->free_at = fmax(sim->now, sim->free_at) + in->serial_s;
    it->arrived = sim->free_at + in->overhead_s;
    sim->road[(sim->road_head + sim->on_road++) % in->users] = id;
}

static void read_done(Sim *sim, int j) {
    Instance *it = &sim->instances[j];
    Request *one = &sim->requests[it->reading];
    sim->decoding[j * sim->in->users + it->decoding++] = it->reading;
    one->from = it->v;
    one->begun = 0;
    it->reading = -1;
    fill(sim, j);
}

static void tokens_done(Sim *sim, int j) {
    Instance *it = &sim->instances[j];
    int *list = &sim->decoding[j * sim->in->users], done = 0;
    const double until = it->v = fmax(it->v, it->target);
    for (int i = 0; i < it->decoding; i++) {
        Request *one = &sim->requests[list[i]];
        if (!one->begun && one->from + 1 <= until + 1e-9) {
            one->begun = 1;
            one->first = sim->now;
        }
        if (one->begun && one->from + one->answer <= until + 1e-9) {
            one->finished = sim->now;
            list[i--] = list[--it->decoding];
            if (--it->busy == 0) sim->active[sim->in->group[j]]--;
            sim->busy--;
            it->connections--;
            sim->finished++;
            done++;
        }
    }
    fill(sim, j);
    while (done--) submit(sim);
}

static void next_target(Sim *sim, int j) {
    Instance *it = &sim->instances[j];
    const int *list = &sim->decoding[j * sim->in->users];
    it->target = NEVER;
    for (int i = 0; i < it->decoding; i++) {
        const Request *one = &sim->requests[list[i]];
        it->target = fmin(it->target, one->from + (one->begun ? one->answer : 1));
    }
}

/* After an event: whoever it touched goes on at a new rate, all of them if the host's share changed. */
static void settle(Sim *sim, const int *active) {
    const Input *in = sim->in;
    double host = in->host[sim->busy];
    int all = host != sim->host;
    for (int j = 0; j < in->instances; j++) {
        int crowded = sim->active[in->group[j]] != active[in->group[j]];
        if (!sim->dirty[j] && !all && !crowded) continue;
        sync(sim, j);
    }
    sim->host = host;
    for (int j = 0; j < in->instances; j++) {
        int crowded = sim->active[in->group[j]] != active[in->group[j]];
        if (!sim->dirty[j] && !all && !crowded) continue;
        if (sim->dirty[j]) next_target(sim, j);
        sim->dirty[j] = 0;
        aim(sim, j);
    }
}

static void step(Sim *sim) {
    const Input *in = sim->in;
    int soonest = -1, active[in->groups];
    double at = sim->on_road ? sim->requests[sim->road[sim->road_head]].arrived : NEVER;
    for (int j = 0; j < in->instances; j++)
        if (sim->instances[j].next < at) {
            at = sim->instances[j].next;
            soonest = j;
        }
    for (int g = 0; g < in->groups; g++) active[g] = sim->active[g];
    sim->now = at;
    if (soonest < 0) {
        int id = sim->road[sim->road_head];
        sim->road_head = (sim->road_head + 1) % in->users;
        sim->on_road--;
        arrive(sim, id);
    } else {
        Instance *it = &sim->instances[soonest];
        sync(sim, soonest);
        sim->dirty[soonest] = 1;
        double reading = it->reading >= 0 ? it->left_s : NEVER;
        double decoding = it->v_rate > 0 ? (it->target - it->v) / it->v_rate : NEVER;
        if (reading * (it->read_rate > 0 ? 1 / it->read_rate : 1) <= decoding) read_done(sim, soonest);
        else tokens_done(sim, soonest);
    }
    settle(sim, active);
}

static void sort(double *values, int n) {
    static const int gaps[] = {3548, 1577, 701, 301, 132, 57, 23, 10, 4, 1};
    for (int g = 0; g < 10; g++)
        for (int gap = gaps[g], i = gap; i < n; i++) {
            double value = values[i];
            int j = i;
            for (; j >= gap && values[j - gap] > value; j -= gap) values[j] = values[j - gap];
            values[j] = value;
        }
}

static double quantile(const double *sorted, int n, double q) {
    double at = q * (n - 1);
    int low = (int)at;
    return low + 1 < n ? sorted[low] + (at - low) * (sorted[low + 1] - sorted[low]) : sorted[n - 1];
}

static void summarise(double *values, int n, double *out) {
    static const double qs[] = {0.5, 0.9, 0.95, 0.99};
    double sum = 0;
    out[0] = n;
    for (int i = 1; i < STATS; i++) out[i] = NAN;
    if (!n) return;
    for (int i = 0; i < n; i++) sum += values[i];
    sort(values, n);
    out[1] = sum / n;
    for (int i = 0; i < 4; i++) out[2 + i] = quantile(values, n, qs[i]);
    out[6] = values[n - 1];
}

enum { TTFT, TPOT, E2E, QUEUE, PREFILL };

/* One kind of time of the requests of the window, of one instance or (-1) of all. */
static int gather(const Sim *sim, double since, int instance, int kind, double *into) {
    int n = 0, by_first = kind != TPOT && kind != E2E;
    for (int id = 0; id < sim->submitted; id++) {
        const Request *it = &sim->requests[id];
        if (instance >= 0 && it->instance != instance) continue;
        if ((by_first ? it->first : it->finished) <= since) continue;
        switch (kind) {
        case TTFT: into[n++] = it->first - it->submitted; break;
        case E2E: into[n++] = it->finished - it->submitted; break;
        case QUEUE: into[n++] = it->started - it->arrived; break;
        case PREFILL: into[n++] = it->first - it->started; break;
        default: into[n++] = (it->finished - it->first) / fmax(1, it->answer - 1);
        }
    }
    return n;
}

/* By instance: requests, tokens/s, busy, generating, most busy, mean, p50 and p95 of TTFT, mean and p50 of TPOT. */
static void tell_instances(Sim *sim, double since, double window_s, double *values, double *each) {
    double stats[STATS];
    for (int j = 0; j < sim->in->instances; j++, each += EACH) {
        const Instance *it = &sim->instances[j];
        summarise(values, gather(sim, since, j, TTFT, values), stats);
        each[1] = it->tokens / window_s;
        each[2] = it->busy_s / window_s;
        each[3] = it->decode_s / window_s;
        each[4] = it->most;
        each[5] = stats[1];
        each[6] = stats[2];
        each[7] = stats[4];
        summarise(values, gather(sim, since, j, TPOT, values), stats);
        each[0] = stats[0];
        each[8] = stats[1];
        each[9] = stats[2];
    }
}

static void tell(Sim *sim, double since, Output *out, double *each) {
    double *values = malloc(sizeof(double) * sim->submitted);
    double window_s = sim->now - since, tokens = 0, held_s = 0;
    double *stats[] = {out->ttft, out->tpot, out->e2e, out->queue, out->prefill};
    *out = (Output){.window_s = window_s};
    for (int j = 0; j < sim->in->instances; j++) {
        tokens += sim->instances[j].tokens;
        out->busy += sim->instances[j].busy_s / window_s;
        out->generating += sim->instances[j].decode_s / window_s;
    }
    for (int id = 0; id < sim->submitted; id++) {
        const Request *it = &sim->requests[id];
        if (it->finished > 0 && it->finished <= since) continue;
        held_s += (it->finished > 0 ? it->finished : sim->now) - fmax(since, it->submitted);
        if (it->finished <= since) continue;
        out->answers++;
        out->prompt_tokens += it->prompt;
        out->answer_tokens += it->answer;
    }
    out->in_flight = held_s / window_s;
    out->tokens_per_s = tokens / window_s;
    out->requests_per_s = out->answers / window_s;
    out->prompt_tokens /= out->answers;
    out->answer_tokens /= out->answers;
    for (int kind = TTFT; kind <= PREFILL; kind++)
        summarise(values, gather(sim, since, -1, kind, values), stats[kind]);
    tell_instances(sim, since, window_s, values, each);
    free(values);
}

static double begin_window(Sim *sim) {
    for (int j = 0; j < sim->in->instances; j++) {
        Instance *it = &sim->instances[j];
        sync(sim, j);
        it->busy_s = it->decode_s = it->tokens = 0;
        it->most = it->busy;
    }
    return sim->now;
}

static void run(Sim *sim, Output *out, double *each) {
    const Input *in = sim->in;
    int *idle = calloc(in->groups, sizeof(int));
    for (int j = 0; j < in->instances; j++) {
        sim->instances[j].reading = -1;
        sim->instances[j].next = sim->instances[j].target = NEVER;
    }
    for (int user = 0; user < in->users; user++) submit(sim);
    settle(sim, idle);
    free(idle);
    while (sim->finished < in->warm) step(sim);
    double since = begin_window(sim);
    while (sim->finished < in->warm + in->requests) step(sim);
    for (int j = 0; j < in->instances; j++) sync(sim, j);
    tell(sim, since, out, each);
}

int simulate(const Input *in, Output *out, double *each) {
    const size_t cells = (size_t)in->instances * in->users;
    Sim sim = {.in = in, .chance = in->seed * 2862933555777941757ULL + 3037000493ULL, .host = -1};
    sim.instances = calloc(in->instances, sizeof(Instance));
    sim.requests = calloc(in->warm + in->requests + 2 * in->users + 2, sizeof(Request));
    sim.waiting = malloc(cells * sizeof(int));
    sim.fresh = malloc(cells * sizeof(int));
    sim.decoding = malloc(cells * sizeof(int));
    sim.active = calloc(in->groups, sizeof(int));
    sim.dirty = calloc(in->instances, sizeof(int));
    sim.road = malloc(in->users * sizeof(int));
    sim.turn = calloc(in->instances, sizeof(double));
    int room = sim.instances && sim.requests && sim.waiting && sim.fresh && sim.decoding && sim.active && sim.dirty
        && sim.road && sim.turn;
    if (room) run(&sim, out, each);
    free(sim.instances);
    free(sim.requests);
    free(sim.waiting);
    free(sim.fresh);
    free(sim.decoding);
    free(sim.active);
    free(sim.dirty);
    free(sim.road);
    free(sim.turn);
    return room ? 0 : 1;
}
