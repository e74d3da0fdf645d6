/* A stand-in for libnvidia-ml.so.1: as much of NVML as autotune asks, told by a text file.
 *
 * The file that NVML_STUB_STATE names is read again at each call, so that a test can change it while things run:
 *
 *     driver 550.90.07            the driver's version
 *     init 9                      nvmlInit fails with this code (9 no driver, 12 no library, 18 versions differ)
 *     old                         a driver that lacks the newer calls
 *     card uuid=GPU-… mib=22528 used=0 temp=40 reasons=0x1 gen=3 width=16 pid=123:8000 draws=124 lost name=Some Card
 *     card uuid=GPU-… fails=999   every question about this card fails with this code
 *
 * One line a card, in PCI order; all fields but uuid may be left out, name is the last and runs to the end of the line.
 * used counts what processes use, in MiB, and is at least what the pids hold. pid= (pid:MiB, or the pid alone where NVML
 * cannot tell) may come several times; draws= is a process that only draws. Without a file there are four RTX 2080 Ti.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_FUNCTION = 13, LOST = 15 };
enum { CARDS = 16, PIDS = 8, RESERVED_MIB = 400 };

typedef struct {
    unsigned pid, draws;
    unsigned long long bytes;
} Process;

typedef struct {
    char uuid[96], name[96];
    unsigned mib, used, temperature, generation, width, lost, fails, processes;
    unsigned long long reasons;
    Process process[PIDS];
} Card;

typedef struct {
    char driver[80];
    unsigned init, old, cards;
    Card card[CARDS];
} State;

static const unsigned long long MIB = 1 << 20, UNKNOWN = ~0ULL;

static const char *DEFAULT[] = {
    "card uuid=GPU-20800000-0000-4000-8000-000000000000",
    "card uuid=GPU-20800001-0000-4000-8000-000000000001",
    "card uuid=GPU-20800002-0000-4000-8000-000000000002",
    "card uuid=GPU-20800003-0000-4000-8000-000000000003",
};

static void add_process(Card *card, const char *text, unsigned draws) {
    unsigned mib = 0, known;
    Process *process = &card->process[card->processes++ % PIDS];
    known = sscanf(text, "%u:%u", &process->pid, &mib) == 2;
    process->draws = draws;
    process->bytes = known ? mib * MIB : UNKNOWN;
}

static void read_field(Card *card, const char *field) {
    if (!strncmp(field, "uuid=", 5)) snprintf(card->uuid, sizeof card->uuid, "%s", field + 5);
    else if (!strncmp(field, "mib=", 4)) card->mib = strtoul(field + 4, NULL, 0);
    else if (!strncmp(field, "used=", 5)) card->used = strtoul(field + 5, NULL, 0);
    else if (!strncmp(field, "temp=", 5)) card->temperature = strtoul(field + 5, NULL, 0);
    else if (!strncmp(field, "reasons=", 8)) card->reasons = strtoull(field + 8, NULL, 0);
    else if (!strncmp(field, "gen=", 4)) card->generation = strtoul(field + 4, NULL, 0);
    else if (!strncmp(field, "width=", 6)) card->width = strtoul(field + 6, NULL, 0);
    else if (!strncmp(field, "pid=", 4)) add_process(card, field + 4, 0);
    else if (!strncmp(field, "draws=", 6)) add_process(card, field + 6, 1);
    else if (!strncmp(field, "fails=", 6)) card->fails = strtoul(field + 6, NULL, 0);
    else if (!strcmp(field, "lost")) card->lost = 1;
    else {
        fprintf(stderr, "stub libnvidia-ml: no field %s\n", field);
        abort();
    }
}

static void read_card(Card *card, char *line) {
    char *name = strstr(line, " name="), *rest;
    *card = (Card){.mib = 22528, .temperature = 40, .reasons = 1, .generation = 3, .width = 16};
    snprintf(card->name, sizeof card->name, "%s", name ? name + 6 : "NVIDIA GeForce RTX 2080 Ti");
    if (name) *name = 0;
    for (char *field = strtok_r(line, " ", &rest); field; field = strtok_r(NULL, " ", &rest)) read_field(card, field);
    unsigned long long held = 0;
    for (unsigned i = 0; i < card->processes; i++)
        if (card->process[i].bytes != UNKNOWN) held += card->process[i].bytes / MIB;
    if (card->used < held) card->used = held;
}

static void read_line(State *state, char *line) {
    line[strcspn(line, "\n")] = 0;
    if (!strncmp(line, "driver ", 7)) snprintf(state->driver, sizeof state->driver, "%s", line + 7);
    else if (!strncmp(line, "init ", 5)) state->init = strtoul(line + 5, NULL, 0);
    else if (!strcmp(line, "old")) state->old = 1;
    else if (!strncmp(line, "card ", 5) && state->cards < CARDS) read_card(&state->card[state->cards++], line + 5);
}

static State now(void) {
    State state = {.driver = "550.90.07"};
    const char *path = getenv("NVML_STUB_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[1024];
    if (file) {
        while (fgets(line, sizeof line, file)) read_line(&state, line);
        fclose(file);
    } else {
        for (unsigned i = 0; i < sizeof DEFAULT / sizeof *DEFAULT; i++) {
            snprintf(line, sizeof line, "%s", DEFAULT[i]);
            read_line(&state, line);
        }
    }
    return state;
}

/* A handle is a card's position, counted from 1. */
static int card_of(const void *handle, Card *card) {
    State state = now();
    uintptr_t number = (uintptr_t)handle;
    if (number < 1) return INVALID;
    if (number > state.cards) return LOST;
    *card = state.card[number - 1];
    return card->lost ? LOST : (int)card->fails;
}

static int give(char *text, unsigned size, const char *value) {
    return (unsigned)snprintf(text, size, "%s", value) < size ? SUCCESS : TOO_SMALL;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return now().init; }
int nvmlInit_v2(void) { return now().init; }
int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case SUCCESS: return "The operation was successful";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case 9: return "Driver Not Loaded";
    case 12: return "NVML Shared Library Not Found";
    case NO_FUNCTION: return "Function Not Found";
    case LOST: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned size) { return give(text, size, now().driver); }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = now().cards; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    State state = now();
    if (index >= state.cards) return INVALID;
    *handle = (void *)(uintptr_t)(index + 1);
    return state.card[index].lost ? LOST : SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    State state = now();
    for (unsigned i = 0; i < state.cards; i++)
        if (!strcmp(state.card[i].uuid, uuid)) return nvmlDeviceGetHandleByIndex_v2(i, handle);
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(void *handle, unsigned *index) {
    Card card;
    *index = (unsigned)(uintptr_t)handle - 1;
    return card_of(handle, &card);
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
    Card card;
    int code = card_of(handle, &card);
    return code ? code : give(text, size, card.uuid);
}

int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
    Card card;
    int code = card_of(handle, &card);
    return code ? code : give(text, size, card.name);
}

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory_v2;

/* The first version of the call counts as used what the driver keeps for itself, the second does not. */
int nvmlDeviceGetMemoryInfo(void *handle, Memory *memory) {
    Card card;
    int code = card_of(handle, &card);
    if (code) return code;
    memory->total = card.mib * MIB;
    memory->used = (card.used + RESERVED_MIB) * MIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *handle, Memory_v2 *memory) {
    Card card;
    int code = now().old ? NO_FUNCTION : card_of(handle, &card);
    if (code) return code;
    memory->total = card.mib * MIB;
    memory->reserved = RESERVED_MIB * MIB;
    memory->used = card.used * MIB;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char place[32];
} Pci;

int nvmlDeviceGetPciInfo_v3(void *handle, Pci *pci) {
    Card card;
    int code = card_of(handle, &card);
    if (code) return code;
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x1A + (unsigned)(uintptr_t)handle - 1;
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", pci->bus & 0xFF);
    snprintf(pci->place, sizeof pci->place, "00000000:%02X:00.0", pci->bus & 0xFF);
    return SUCCESS;
}

typedef struct {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
} ProcessInfo;

static int processes(void *handle, unsigned *count, ProcessInfo *info, unsigned draws) {
    Card card;
    unsigned room = info ? *count : 0;
    int code = card_of(handle, &card);
    if (code) return code;
    *count = 0;
    for (unsigned i = 0; i < card.processes && i < PIDS; i++) {
        if (card.process[i].draws != draws) continue;
        if (*count < room) info[*count] = (ProcessInfo){card.process[i].pid, card.process[i].bytes, ~0U, ~0U};
        ++*count;
    }
    return *count > room ? TOO_SMALL : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *info) {
    return processes(handle, count, info, 0);
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, ProcessInfo *info) {
    return processes(handle, count, info, 0);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, ProcessInfo *info) {
    return processes(handle, count, info, 1);
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *celsius) {
    Card card;
    int code = sensor ? INVALID : card_of(handle, &card);
    if (!code) *celsius = card.temperature;
    return code;
}

int nvmlDeviceGetClockInfo(void *handle, int clock, unsigned *mhz) {
    Card card;
    int code = card_of(handle, &card);
    if (!code) *mhz = clock == 2 ? 7000 : card.reasons & ~1ULL ? 1200 : 1545;
    return code;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    Card card;
    int code = card_of(handle, &card);
    if (!code) *milliwatts = card.processes ? 250500 : 20500;
    return code;
}

int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoules) {
    Card card;
    int code = card_of(handle, &card);
    if (!code) *millijoules = card.processes ? 7500000ULL : 500ULL;
    return code;
}

typedef struct { unsigned gpu, memory; } Utilization;

int nvmlDeviceGetUtilizationRates(void *handle, Utilization *rates) {
    Card card;
    int code = card_of(handle, &card);
    if (!code) *rates = card.processes ? (Utilization){97, 60} : (Utilization){0, 0};
    return code;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *reasons) {
    Card card;
    int code = now().old ? NO_FUNCTION : card_of(handle, &card);
    if (!code) *reasons = card.reasons;
    return code;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *reasons) {
    Card card;
    int code = card_of(handle, &card);
    if (!code) *reasons = card.reasons;
    return code;
}

int nvmlDeviceGetMaxPcieLinkGeneration(void *handle, unsigned *generation) {
    Card card;
    int code = card_of(handle, &card);
    if (!code) *generation = card.generation;
    return code;
}

int nvmlDeviceGetMaxPcieLinkWidth(void *handle, unsigned *width) {
    Card card;
    int code = card_of(handle, &card);
    if (!code) *width = card.width;
    return code;
}

/* Only GPUs that are NUMA nodes themselves answer this one. */
int nvmlDeviceGetNumaNodeId(void *handle, int *node) {
    Card card;
    int code = card_of(handle, &card);
    *node = -1;
    return code ? code : NOT_SUPPORTED;
}
