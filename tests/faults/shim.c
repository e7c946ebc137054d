/* Faults at the seam to the file system: counts, and at a chosen one of them kills, fails or stops.
 *
 * Loaded with LD_PRELOAD. Every call that would change something below `root` is one operation;
 * the counter is shared by all processes of a run through the file PSC_FAULT_STATE.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT, KILL, TEAR, FULL, FAIL_ONCE, PAUSE, COPY };

struct state {
    int64_t count;   /* operations so far */
    int64_t at;      /* the operation that the fault meets, from 1; COPY: each at-th one */
    int32_t action;
    int32_t main_pid; /* the command itself; dies with the process that meets the fault */
    int32_t room;     /* FULL: bytes that still fit into files */
    int32_t met;
    char root[1024];
    char log[1024];
    char copies[1024]; /* COPY: a folder; root is copied into it before each operation */
};

static struct state *state;

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("PSC_FAULT_STATE");
    if (path == NULL) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *found = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (found != MAP_FAILED) state = found;
}

static int inside(const char *path) {
    size_t n = state == NULL ? 0 : strlen(state->root);
    return n > 0 && strncmp(path, state->root, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static const char *of_fd(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = '\0';
    return out;
}

static const char *full(int dirfd, const char *path, char *out) {
    char base[PATH_MAX];
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else if (dirfd == AT_FDCWD) {
        if (syscall(SYS_getcwd, base, sizeof base) < 0) base[0] = '\0';
        snprintf(out, PATH_MAX, "%.2040s/%.2040s", base, path);
    } else {
        snprintf(out, PATH_MAX, "%.2040s/%.2040s", of_fd(dirfd, base), path);
    }
    return out;
}

static void note(int64_t number, const char *op, const char *path, const char *other) {
    if (state->log[0] == '\0') return;
    char line[3 * PATH_MAX];
    int n = snprintf(line, sizeof line, "%lld\t%s\t%s\t%s\n", (long long)number, op, path, other);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, state->log, O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (fd >= 0) {
        (void)!syscall(SYS_write, fd, line, n);
        syscall(SYS_close, fd);
    }
}

/* What a process killed now would leave behind, as <copies>/<number>[.half]. */
static void copy(int64_t number, const char *suffix) {
    char to[PATH_MAX];
    snprintf(to, sizeof to, "%s/%lld%s", state->copies, (long long)number, suffix);
    char *words[] = {"cp", "-a", state->root, to, NULL}, *nothing[] = {NULL};
    pid_t child;
    if (posix_spawn(&child, "/bin/cp", NULL, NULL, words, nothing) == 0) {
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) continue;
    }
}

static void die(void) {
    while (__atomic_load_n(&state->main_pid, __ATOMIC_SEQ_CST) == 0) usleep(100);
    syscall(SYS_kill, state->main_pid, SIGKILL);
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* 0: go on. -1: half of the write only, then see `halfway`. Otherwise the errno to fail with. `bytes` is what the operation adds to files. */
static int meet(const char *op, const char *path, const char *other, int64_t bytes) {
    if (state == NULL || !(inside(path) || inside(other))) return 0;
    int64_t number = __atomic_add_fetch(&state->count, 1, __ATOMIC_SEQ_CST);
    note(number, op, path, other);
    if (state->action == FULL) {
        int makes = bytes > 0 || op[0] == 'm' || strcmp(op, "create") == 0;
        if (number < state->at || !makes) return 0;
        if (bytes > 0 && state->room >= bytes) {
            __atomic_sub_fetch(&state->room, (int32_t)bytes, __ATOMIC_SEQ_CST);
            return 0;
        }
        state->met = 1;
        return ENOSPC;
    }
    if (state->action == COPY) {
        static __thread int rest; /* the second half of a write */
        if (state->at > 1 && number % state->at != 0) return 0;
        copy(number, "");
        rest = bytes > 1 && !rest;
        return rest ? -1 : 0;
    }
    if (number != state->at || state->action == COUNT) return 0;
    state->met = 1;
    if (state->action == KILL) die();
    if (state->action == FAIL_ONCE) return EIO;
    if (state->action == PAUSE) syscall(SYS_kill, getpid(), SIGSTOP);
    return state->action == TEAR && bytes > 0 ? -1 : (state->action == TEAR ? (die(), 0) : 0);
}

/* Half of a write is done. */
static void halfway(void) {
    if (state->action == COPY) copy(state->count, ".half");
    else die();
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (real == NULL) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define REFUSE_IF(error) \
    do { int code_ = (error); if (code_ != 0) { errno = code_; return -1; } } while (0)

#define WRITES(flags) (((flags) & O_ACCMODE) != O_RDONLY || ((flags) & (O_CREAT | O_TRUNC)))

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        char buffer[PATH_MAX]; mode_t mode = 0; \
        if (flags & (O_CREAT | __O_TMPFILE)) { \
            va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } \
        if (state && WRITES(flags)) \
            REFUSE_IF(meet(flags & O_CREAT ? "create" : "open", full(AT_FDCWD, path, buffer), "", 0)); \
        REAL(name); return real(path, flags, mode); }
#define OPENAT(name) \
    int name(int dirfd, const char *path, int flags, ...) { \
        char buffer[PATH_MAX]; mode_t mode = 0; \
        if (flags & (O_CREAT | __O_TMPFILE)) { \
            va_list more; va_start(more, flags); mode = va_arg(more, mode_t); va_end(more); } \
        if (state && WRITES(flags)) \
            REFUSE_IF(meet(flags & O_CREAT ? "create" : "open", full(dirfd, path, buffer), "", 0)); \
        REAL(name); return real(dirfd, path, flags, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

/* A write may be short; callers go on with the rest, which is then an operation of its own. */
#define WRITE(name, extra_parameters, extra) \
    ssize_t name(int fd, const void *data, size_t size extra_parameters) { \
        char path[PATH_MAX]; REAL(name); \
        if (state == NULL || fd <= 2) return real(fd, data, size extra); \
        int code = meet("write", of_fd(fd, path), "", (int64_t)size); \
        if (code == -1) { \
            ssize_t done = real(fd, data, size / 2 extra); halfway(); return done; } \
        REFUSE_IF(code); return real(fd, data, size extra); }
#define COMMA ,
WRITE(write, , )
WRITE(pwrite, COMMA off_t offset, COMMA offset)
WRITE(pwrite64, COMMA off64_t offset, COMMA offset)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    int64_t size = 0;
    REAL(writev);
    for (int i = 0; i < count; i++) size += (int64_t)parts[i].iov_len;
    if (state && fd > 2) {
        int code = meet("write", of_fd(fd, path), "", size);
        if (code == -1 && count > 1) {
            ssize_t done = real(fd, parts, count / 2);
            halfway();
            return done;
        }
        if (code > 0) REFUSE_IF(code);
    }
    return real(fd, parts, count);
}

#define SENDFILE(name, offset_type) \
    ssize_t name(int out, int in, offset_type *offset, size_t size) { \
        char path[PATH_MAX]; REAL(name); struct stat found; \
        if (state) { \
            int64_t left = fstat(in, &found) == 0 && found.st_size < (int64_t)size ? found.st_size : (int64_t)size; \
            int code = meet("write", of_fd(out, path), "", left); \
            if (code == -1) { \
                ssize_t done = real(out, in, offset, (size_t)left / 2); halfway(); return done; } \
            REFUSE_IF(code); } \
        return real(out, in, offset, size); }
SENDFILE(sendfile, off_t)
SENDFILE(sendfile64, off64_t)

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags) {
    char path[PATH_MAX];
    REAL(copy_file_range);
    if (state) {
        int code = meet("write", of_fd(out, path), "", (int64_t)size);
        if (code == -1) {
            ssize_t done = real(in, from, out, to, size / 2, flags);
            halfway();
            return done;
        }
        REFUSE_IF(code);
    }
    return real(in, from, out, to, size, flags);
}

#define ON_FD(name, op, parameters, arguments) \
    int name(int fd parameters) { \
        char path[PATH_MAX]; REAL(name); \
        if (state) REFUSE_IF(meet(op, of_fd(fd, path), "", 0)); \
        return real(fd arguments); }
ON_FD(fsync, "fsync", , )
ON_FD(fdatasync, "fsync", , )
ON_FD(ftruncate, "truncate", COMMA off_t size, COMMA size)
ON_FD(ftruncate64, "truncate", COMMA off64_t size, COMMA size)
ON_FD(fchmod, "chmod", COMMA mode_t mode, COMMA mode)

#define ON_PATH(name, op, parameters, arguments) \
    int name(const char *path parameters) { \
        char buffer[PATH_MAX]; REAL(name); \
        if (state) REFUSE_IF(meet(op, full(AT_FDCWD, path, buffer), "", 0)); \
        return real(path arguments); }
ON_PATH(unlink, "unlink", , )
ON_PATH(rmdir, "rmdir", , )
ON_PATH(mkdir, "mkdir", COMMA mode_t mode, COMMA mode)
ON_PATH(chmod, "chmod", COMMA mode_t mode, COMMA mode)
ON_PATH(truncate, "truncate", COMMA off_t size, COMMA size)
ON_PATH(truncate64, "truncate", COMMA off64_t size, COMMA size)

#define ON_AT(name, op, parameters, arguments) \
    int name(int dirfd, const char *path parameters) { \
        char buffer[PATH_MAX]; REAL(name); \
        if (state) REFUSE_IF(meet(op, full(dirfd, path, buffer), "", 0)); \
        return real(dirfd, path arguments); }
ON_AT(unlinkat, flags & AT_REMOVEDIR ? "rmdir" : "unlink", COMMA int flags, COMMA flags)
ON_AT(mkdirat, "mkdir", COMMA mode_t mode, COMMA mode)
ON_AT(fchmodat, "chmod", COMMA mode_t mode COMMA int flags, COMMA mode COMMA flags)

#define TWO(name, op) \
    int name(const char *from, const char *to) { \
        char one[PATH_MAX], two[PATH_MAX]; REAL(name); \
        if (state) REFUSE_IF(meet(op, full(AT_FDCWD, from, one), full(AT_FDCWD, to, two), 0)); \
        return real(from, to); }
TWO(rename, "rename") TWO(link, "link") TWO(symlink, "symlink")

#define TWO_AT(name, op, parameters, arguments) \
    int name(int from_fd, const char *from, int to_fd, const char *to parameters) { \
        char one[PATH_MAX], two[PATH_MAX]; REAL(name); \
        if (state) REFUSE_IF(meet(op, full(from_fd, from, one), full(to_fd, to, two), 0)); \
        return real(from_fd, from, to_fd, to arguments); }
TWO_AT(renameat, "rename", , )
TWO_AT(renameat2, "rename", COMMA unsigned flags, COMMA flags)
TWO_AT(linkat, "link", COMMA int flags, COMMA flags)

#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        char buffer[PATH_MAX]; REAL(name); \
        if (state && (mode[0] != 'r' || strchr(mode, '+'))) { \
            int code = meet("create", full(AT_FDCWD, path, buffer), "", 0); \
            if (code > 0) { errno = code; return NULL; } } \
        return real(path, mode); }
FOPEN(fopen) FOPEN(fopen64)
