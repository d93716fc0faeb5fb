/* A disk that fails on demand, and a clock that is set: loaded into a program with LD_PRELOAD.
 *
 * FAULTY_ROOT    only paths under it are touched
 * FAULTY_RULE    a file with a line "CALL ERRNO SKIP SUBSTRING": while it exists, CALL (write, fsync,
 *                rename, open, any) on a path with SUBSTRING ("-": any) fails with ERRNO, after SKIP
 *                calls were let through
 * FAULTY_LOG     a file that gets a line for every call: "CALL PATH [PATH]"
 * FAULTY_CLOCK   a file with seconds that are added to the wall clock
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static long skipped;

static int raw_open(const char *path, int flags) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0644);
}

static ssize_t read_file(const char *path, char *out, size_t size) {
    if (!path) return -1;
    int fd = raw_open(path, O_RDONLY);
    if (fd < 0) return -1;
    ssize_t n = syscall(SYS_read, fd, out, size - 1);
    syscall(SYS_close, fd);
    if (n >= 0) out[n] = 0;
    return n;
}

static void log_call(const char *call, const char *path, const char *other) {
    const char *log = getenv("FAULTY_LOG");
    if (!log) return;
    char line[4400];
    int n = snprintf(line, sizeof line, "%s %s%s%s\n", call, path, other ? " " : "", other ? other : "");
    int fd = raw_open(log, O_WRONLY | O_CREAT | O_APPEND);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, (size_t)n);
    syscall(SYS_close, fd);
}

/* Whether the call is to fail; errno is set then. */
static int fails(const char *call, const char *path, const char *other) {
    const char *root = getenv("FAULTY_ROOT");
    int kept = errno;
    if (!root || !path || strncmp(path, root, strlen(root)) != 0) return 0;
    log_call(call, path, other);
    char rule[512], what[32], part[256];
    int number;
    long skip;
    int result = 0;
    if (read_file(getenv("FAULTY_RULE"), rule, sizeof rule) > 0 &&
        sscanf(rule, "%31s %d %ld %255s", what, &number, &skip, part) == 4 &&
        (!strcmp(what, call) || !strcmp(what, "any")) &&
        (!strcmp(part, "-") || strstr(path, part) || (other && strstr(other, part)))) {
        if (__sync_fetch_and_add(&skipped, 1) >= skip) {
            errno = number;
            return 1;
        }
    } else {
        errno = kept;
    }
    return result;
}

static int path_of(int fd, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, size - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return path[0] == '/';
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *bytes, size_t n) {
    char path[4096];
    if (fd > 2 && path_of(fd, path, sizeof path) && fails("write", path, 0)) return -1;
    return syscall(SYS_write, fd, bytes, n);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    char path[4096];
    if (fd > 2 && path_of(fd, path, sizeof path) && fails("write", path, 0)) return -1;
    return syscall(SYS_writev, fd, parts, n);
}

int fsync(int fd) {
    char path[4096];
    if (path_of(fd, path, sizeof path) && fails("fsync", path, 0)) return -1;
    return (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd) {
    char path[4096];
    if (path_of(fd, path, sizeof path) && fails("fsync", path, 0)) return -1;
    return (int)syscall(SYS_fdatasync, fd);
}

int rename(const char *from, const char *to) {
    if (fails("rename", from, to)) return -1;
    return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}

static int opened(const char *path, int flags, int mode) {
    if ((flags & O_ACCMODE) != O_RDONLY && fails("open", path, 0)) return -1;
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    int mode = va_arg(more, int);
    va_end(more);
    return opened(path, flags, mode);
}

int mkdir(const char *path, mode_t mode) {
    if (fails("open", path, 0)) return -1;
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    char text[64];
    if (clock == CLOCK_REALTIME && read_file(getenv("FAULTY_CLOCK"), text, sizeof text) > 0)
        now->tv_sec += atol(text);
    return result;
}
