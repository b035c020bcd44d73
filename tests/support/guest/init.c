/* The only program of the test guest. It mounts the disks, writes records that tell what is lost, and says what it does.
 *
 * Record n lies on disk n % k and is synced before record n + 1 is begun, so disks that were taken at different instants
 * don't fit together. Each disk has a ring of files of equal slots. A file with an even number is overwritten in place, one
 * with an odd number is deleted and made anew, so its extents move. All is little-endian; records.py reads the same.
 *
 * Settings come from the kernel's command line as guest_*. Lines on the port replicad.report: see running.py. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { MAX_DISKS = 16, PULSE_NS = 2000000, STRIPE = 32, CHECKED_FROM = 16, CHURNED_FILES = 16 };

struct record {
    char magic[8];
    uint64_t checksum; /* XXH64 of all that follows it; that is a multiple of 32 bytes */
    uint64_t number;
    uint32_t size, disks, disk, files, per_file, slot_bytes;
    uint64_t written_ns, reserved;
    uint64_t payload[];
};

static const char MAGIC[8] = "REPLREC1";
static int report = -1;
static struct record *buffer;
static uint32_t disks, files, per_file, slot_bytes; /* disks: how many can be used */
static int mounted[MAX_DISKS];                      /* the number of each of them in the machine */
static uint64_t state = 88172645463325252u;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000u + t.tv_nsec;
}

static void sleep_until(uint64_t at_ns) {
    struct timespec t = {at_ns / 1000000000u, at_ns % 1000000000u};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void say(const char *format, ...) {
    char line[256];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    line[length++] = '\n';
    if (report < 0 || write(report, line, length) != length) dprintf(2, "guest: %.*s", length, line);
}

static uint64_t setting(const char *name, uint64_t otherwise) {
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 10) : otherwise;
}

static uint64_t random_word(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static uint64_t rotated(uint64_t word, int bits) { return word << bits | word >> (64 - bits); }

/* XXH64, seed 0, of a multiple of 32 bytes. */
static uint64_t xxh64(const uint64_t *word, uint64_t length) {
    const uint64_t p1 = 0x9E3779B185EBCA87u, p2 = 0xC2B2AE3D27D4EB4Fu, p3 = 0x165667B19E3779F9u, p4 = 0x85EBCA77C2B2AE63u;
    uint64_t lane[4] = {p1 + p2, p2, 0, 0 - p1};
    for (uint64_t stripe = 0; stripe < length / STRIPE; stripe++)
        for (int i = 0; i < 4; i++) lane[i] = rotated(lane[i] + *word++ * p2, 31) * p1;
    uint64_t hash = rotated(lane[0], 1) + rotated(lane[1], 7) + rotated(lane[2], 12) + rotated(lane[3], 18);
    for (int i = 0; i < 4; i++) hash = (hash ^ rotated(lane[i] * p2, 31) * p1) * p1 + p4;
    hash += length;
    hash = (hash ^ hash >> 33) * p2;
    hash = (hash ^ hash >> 29) * p3;
    return hash ^ hash >> 32;
}

static uint64_t checksum(const struct record *record) {
    return xxh64(&record->number, record->size - CHECKED_FROM);
}

/* Where record `number` lies. */
static void place(uint64_t number, uint32_t *disk, uint32_t *file, uint32_t *slot) {
    uint64_t turn = number / disks % (files * per_file);
    *disk = number % disks, *file = turn / per_file, *slot = turn % per_file;
}

static void path_of(char *path, uint32_t disk, uint32_t file) { sprintf(path, "/disk%d/records/%u", mounted[disk], file); }

/* The number of the record in a slot; 0: there is none; UINT64_MAX: something that is no whole record. */
static uint64_t read_slot(uint32_t disk, int file, uint32_t slot) {
    ssize_t length = pread(file, buffer, slot_bytes, (off_t)slot * slot_bytes);
    if (length < 0) return say("error %d read %d", mounted[disk], errno), UINT64_MAX;
    for (ssize_t at = length; at < (ssize_t)sizeof *buffer; at++) ((char *)buffer)[at] = 0;
    static const struct record nothing;
    if (!memcmp(buffer, &nothing, sizeof nothing)) return 0;
    if (memcmp(buffer->magic, MAGIC, sizeof MAGIC) || buffer->size > length || buffer->size < sizeof *buffer) return UINT64_MAX;
    if ((buffer->size - CHECKED_FROM) % STRIPE || checksum(buffer) != buffer->checksum) return UINT64_MAX;
    return buffer->number;
}

/* Whether the slot that record `number` overwrote may have anything in it, as `highest` is the last whole record. */
static int excused(uint64_t number, uint64_t highest) {
    uint32_t disk, file, slot, next_disk, next_file, next_slot;
    place(number, &disk, &file, &slot);
    uint64_t next = highest + 1;
    while (next % disks != disk) next++;
    place(next, &next_disk, &next_file, &next_slot);
    if (file != next_file) return 0;
    if (next == highest + 1 && (slot == next_slot || (file % 2 && next_slot == 0))) return 1; /* being written */
    return file % 2 && next_slot > 0 && slot >= next_slot;                                    /* deleted with its file */
}

/* Read all records. Says what is wrong if `aloud`; gives the highest number. */
static uint64_t check(int aloud) {
    uint64_t slots = (uint64_t)files * per_file, highest = 0, torn = 0, missing = 0, through;
    uint64_t *found = calloc(disks * slots, sizeof *found);
    char path[64];
    for (uint32_t disk = 0; disk < disks; disk++)
        for (uint32_t file = 0; file < files; file++) {
            path_of(path, disk, file);
            int opened = open(path, O_RDONLY | O_CLOEXEC);
            if (opened < 0) continue;
            for (uint32_t slot = 0; slot < per_file; slot++) {
                uint64_t number = read_slot(disk, opened, slot);
                found[disk * slots + file * per_file + slot] = number;
                if (number != UINT64_MAX && number > highest) highest = number;
            }
            close(opened);
        }
    through = highest;
    uint64_t oldest = highest > disks * slots ? highest - disks * slots + 1 : 1;
    for (uint64_t number = highest; number >= oldest && number; number--) {
        uint64_t there = found[number % disks * slots + number / disks % slots];
        if (there == number || excused(number, highest)) continue;
        missing++, torn += there == UINT64_MAX, through = number - 1;
    }
    for (uint64_t number = highest + 2; number <= disks * slots; number++) /* slots in which nothing was written yet */
        torn += found[number % disks * slots + number / disks % slots] == UINT64_MAX;
    if (aloud || missing || torn)
        say("checked %llu %llu %llu %llu", (unsigned long long)through, (unsigned long long)highest,
            (unsigned long long)torn, (unsigned long long)missing);
    free(found);
    return highest;
}

/* Write a record and sync it; -1 if that fails. */
static int write_record(uint64_t number, uint32_t smallest) {
    uint32_t disk, file, slot;
    char path[64];
    place(number, &disk, &file, &slot);
    path_of(path, disk, file);
    uint32_t stripes = smallest / STRIPE + random_word() % (slot_bytes / STRIPE - smallest / STRIPE + 1);
    *buffer = (struct record){.number = number, .size = stripes * STRIPE - STRIPE + CHECKED_FROM, .disks = disks, .disk = disk,
        .files = files, .per_file = per_file, .slot_bytes = slot_bytes, .written_ns = now_ns()};
    memcpy(buffer->magic, MAGIC, sizeof MAGIC);
    for (uint32_t i = 0; i < (buffer->size - sizeof *buffer) / 8; i++) buffer->payload[i] = random_word();
    buffer->checksum = checksum(buffer);
    if (slot == 0 && file % 2 && unlink(path) && errno != ENOENT) return say("error %d unlink %d", mounted[disk], errno), -1;
    int opened = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    if (opened < 0) return say("error %d open %d", mounted[disk], errno), -1;
    int bad = pwrite(opened, buffer, buffer->size, (off_t)slot * slot_bytes) != buffer->size ? -1 : fsync(opened);
    if (bad) say("error %d write %d", mounted[disk], errno);
    close(opened);
    if (!bad && slot == 0) {
        *strrchr(path, '/') = 0;
        opened = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if ((bad = fsync(opened))) say("error %d sync %d", mounted[disk], errno);
        close(opened);
    }
    return bad;
}

static void put(const char *path, const char *text) {
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (write(file, text, strlen(text)) < 0) dprintf(2, "guest: %s: %s\n", path, strerror(errno));
    close(file);
}

/* Writes, overwrites and deletes files that nobody reads, without syncing: blocks move, and the journal works. */
static void churn(uint64_t bytes_per_s) {
    static char block[65536];
    char path[64];
    /* Within a second on the disks, not in half a minute. */
    put("/proc/sys/vm/dirty_writeback_centisecs", "30"), put("/proc/sys/vm/dirty_expire_centisecs", "30");
    for (uint64_t next = now_ns();; next += sizeof block * 1000000000u / bytes_per_s) {
        uint64_t word = random_word();
        sprintf(path, "/disk%d/churned/%u", mounted[word % disks], (unsigned)(word >> 8) % CHURNED_FILES);
        if (word >> 16 & 7) {
            int opened = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
            for (size_t i = 0; i < sizeof block; i += 8) *(uint64_t *)(block + i) = random_word();
            if (opened < 0 || (pwrite(opened, block, 4096 + (word >> 20 & 0xEFFF), word >> 36 & 0xFFFFF) < 0 && errno != ENOSPC))
                say("error %d churn %d", mounted[word % disks], errno);
            if ((word >> 19 & 15) == 0 && opened >= 0 && ftruncate(opened, word >> 40 & 0xFFFFF)) say("error 0 truncate %d", errno);
            close(opened);
        } else
            unlink(path);
        sleep_until(next);
    }
}

/* A byte that counts, every 2 ms, on a serial line, whose bytes QEMU passes on one by one. */
static void beat(void) {
    struct sched_param first = {1};
    struct termios line;
    int port = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (port < 0 || tcgetattr(port, &line)) say("error 0 pulse %d", errno), _exit(1);
    cfmakeraw(&line), cfsetspeed(&line, B115200);
    tcsetattr(port, TCSANOW, &line);
    sched_setscheduler(0, SCHED_FIFO, &first);
    uint64_t next = now_ns();
    for (unsigned char number = 1;; number++) {
        if (write(port, &number, 1) != 1) say("error 0 beat %d", errno);
        uint64_t now = now_ns();
        next = next + PULSE_NS > now ? next + PULSE_NS : now + PULSE_NS; /* what was missed is not made up for */
        sleep_until(next);
    }
}

static void load(const char *name) {
    char path[64];
    sprintf(path, "/modules/%s.ko", name);
    int module = open(path, O_RDONLY | O_CLOEXEC);
    if (module < 0 || syscall(SYS_finit_module, module, "", 0)) dprintf(2, "guest: module %s: %s\n", name, strerror(errno));
    close(module);
}

/* One line of a file below /sys. */
static void read_line(const char *path, char *line, int size) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, line, size - 1);
    line[length < 0 ? 0 : length] = 0;
    line[strcspn(line, "\n")] = 0;
    close(file);
}

/* Find the device below `list` whose `attribute` is `wanted`; within 10 s. */
static int find(const char *list, const char *attribute, const char *wanted, int patience_ms, char *device) {
    char path[512], value[64];
    for (int tries = 0; tries <= patience_ms; tries++, usleep(1000)) {
        DIR *directory = opendir(list);
        for (struct dirent *entry; directory && (entry = readdir(directory));) {
            snprintf(path, sizeof path, "%s/%s/%s", list, entry->d_name, attribute);
            read_line(path, value, sizeof value);
            if (entry->d_name[0] != '.' && !strcmp(value, wanted))
                return snprintf(device, 64, "/dev/%.40s", entry->d_name), closedir(directory), 1;
        }
        if (directory) closedir(directory);
    }
    return 0;
}

/* Mount what is there. A disk that is missing or can't be written is said, and left out. */
static void mount_disks(uint32_t wanted, int verify) {
    char name[64], device[64], where[64];
    for (uint32_t disk = 0; disk < wanted && disk < MAX_DISKS; disk++) {
        sprintf(name, "disk%u", disk), sprintf(where, "/disk%u", disk);
        mkdir(where, 0755);
        if (!find("/sys/block", "serial", name, 1000, device)) {
            say("absent %u", disk);
            continue;
        }
        int bad = mount(device, where, "ext4", MS_NOATIME, "errors=remount-ro,noinit_itable");
        int why = errno;
        if (bad && !mount(device, where, "ext4", MS_RDONLY, "")) {
            say("read-only %u", disk);
            if (!verify) continue;
        } else if (bad) {
            say("unmountable %u %d", disk, why);
            continue;
        }
        mounted[disks++] = disk;
        sprintf(where, "/disk%u/records", disk), mkdir(where, 0755);
        sprintf(where, "/disk%u/churned", disk), mkdir(where, 0755);
    }
}

static void end(void) {
    kill(-1, SIGKILL);
    for (uint32_t disk = 0; disk < disks; disk++) {
        char where[64];
        sprintf(where, "/disk%d", mounted[disk]);
        int bad = -1;
        for (int tries = 0; tries < 2000 && (bad = umount(where)) && errno == EBUSY; tries++) usleep(1000);
        if (bad) say("error %d unmount %d", mounted[disk], errno);
    }
    say("ended");
    sync();
    reboot(RB_POWER_OFF);
}

/* Go on with the ring that is on the disks, whatever the settings say. */
static void keep_layout(void) {
    struct record first;
    char path[64];
    path_of(path, 0, 0);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (pread(file, &first, sizeof first, 0) == sizeof first && !memcmp(first.magic, MAGIC, sizeof MAGIC))
        files = first.files, per_file = first.per_file, slot_bytes = first.slot_bytes;
    close(file);
}

static void start_agent(void) {
    char device[64];
    if (access("/usr/sbin/qemu-ga", X_OK) || !find("/sys/class/virtio-ports", "name", "org.qemu.guest_agent.0", 10000, device)) return;
    if (fork()) return;
    signal(SIGCHLD, SIG_DFL);
    execl("/usr/sbin/qemu-ga", "qemu-ga", "-m", "virtio-serial", "-p", device, "-t", "/run", NULL);
    dprintf(2, "guest: qemu-ga: %s\n", strerror(errno));
    _exit(1);
}

/* Orders of the host, a line each. */
static void obey(int *held, uint64_t *rate, uint64_t last, int patience_ms) {
    static char line[128];
    static size_t length;
    struct pollfd port = {report, POLLIN, 0};
    while (poll(&port, 1, patience_ms) > 0 && port.revents & POLLIN && read(report, line + length, 1) == 1) {
        if (line[length++] != '\n' && length < sizeof line - 1) continue;
        line[length] = 0, length = 0;
        if (!strcmp(line, "hold\n")) *held = 1, say("held %llu", (unsigned long long)last);
        else if (!strcmp(line, "go on\n")) *held = 0, say("going on");
        else if (sscanf(line, "rate %llu\n", (unsigned long long *)rate) == 1) say("rate %llu", (unsigned long long)*rate);
        else if (!strcmp(line, "power off\n")) end();
        patience_ms = 0;
    }
}

int main(void) {
    static const char *modules[] = {"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci",
        "virtio_blk", "virtio_console"};
    char device[64];
    mkdir("/dev", 0755), mkdir("/sys", 0755), mkdir("/proc", 0755), mkdir("/run", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, ""), mount("sysfs", "/sys", "sysfs", 0, ""), mount("proc", "/proc", "proc", 0, "");
    int console = open("/dev/console", O_RDWR);
    dup2(console, 0), dup2(console, 1), dup2(console, 2);
    signal(SIGCHLD, SIG_IGN);
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) load(modules[i]);
    if (find("/sys/class/virtio-ports", "name", "replicad.report", 10000, device)) report = open(device, O_RDWR | O_CLOEXEC);
    int verify = setting("guest_verify", 0), held = 0, stopped = 0;
    uint64_t rate = setting("guest_rate", 50), churned = setting("guest_churn", 0), smallest = setting("guest_min_bytes", 4096);
    files = setting("guest_files", 16), per_file = setting("guest_per_file", 16), slot_bytes = setting("guest_max_bytes", 65536);
    state += setting("guest_seed", 0) * 2 + 1;
    mount_disks(setting("guest_disks", 0), verify);
    keep_layout();
    buffer = aligned_alloc(4096, slot_bytes);
    uint64_t number = disks ? check(verify) : 0;
    if (verify) end();
    start_agent();
    if (!fork()) beat();
    if (churned && disks && !fork()) churn(churned);
    say("ready %u %llu", disks, (unsigned long long)number);
    for (uint64_t next = now_ns();;) {
        int idle = held || stopped || !disks;
        uint64_t now = now_ns();
        obey(&held, &rate, number, idle ? 1000 : next > now ? (next - now) / 1000000 : 0);
        if (held || stopped || !disks || next > now_ns() + 1000000) continue;
        sleep_until(next);
        if ((stopped = write_record(number + 1, smallest))) continue;
        say("durable %llu", (unsigned long long)++number);
        now = now_ns();
        next = rate && next + 1000000000u / rate > now ? next + 1000000000u / rate : now;
    }
}
