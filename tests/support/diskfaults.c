/* A disk that fails as told, for the process it is preloaded into: see diskfaults.py, which writes the rules.
 *
 * Each call below looks whether a rule names it and the file it is about; if so it sets errno and does nothing. Rules are
 * in a small mapped file, so that they can be changed while the process runs. Reads through a mapping are no calls, and
 * so cannot be made to fail here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, READ = 4, SEND = 8, OPEN = 16, NAME = 32, SIZE = 64 };

struct rule {            /* 256 bytes; diskfaults.py packs the same */
    uint32_t calls;      /* 0: no rule */
    int32_t error;
    int32_t left;        /* how often it still fails; < 0: for ever */
    uint32_t hits;
    int64_t start, stop; /* only calls that name an offset in between; stop 0: all calls */
    char path[224];      /* part of the file's path */
};
enum { RULES = 16 };

static struct rule *rules;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("RECALL_TEST_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, RULES * sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at != MAP_FAILED)
        rules = at;
}

static int fails_at(uint32_t call, const char *path, int64_t offset)
{
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &rules[i];
        if (!(rule->calls & call) || rule->left == 0 || !strstr(path, rule->path))
            continue;
        if (rule->stop && (offset < rule->start || offset >= rule->stop))
            continue;
        if (rule->left > 0)
            __sync_fetch_and_sub(&rule->left, 1);
        __sync_fetch_and_add(&rule->hits, 1);
        errno = rule->error;
        return 1;
    }
    return 0;
}

static int armed(uint32_t call)
{
    if (rules)
        for (int i = 0; i < RULES; i++)
            if (rules[i].calls & call)
                return 1;
    return 0;
}

static int fails(uint32_t call, int fd, int64_t offset)
{
    char link[32], path[4096];
    if (!armed(call))
        return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails_at(call, path, offset);
}

static int fails_by_name(uint32_t call, const char *path) { return armed(call) && fails_at(call, path, -1); }

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)
#define FAIL_IF(what) \
    if (what) \
        return -1

#define PWRITE(name) \
    ssize_t name(int fd, const void *data, size_t length, off_t at) \
    { \
        REAL(name); \
        FAIL_IF(fails(WRITE, fd, at)); \
        return real(fd, data, length, at); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t write(int fd, const void *data, size_t length)
{
    REAL(write);
    FAIL_IF(fails(WRITE, fd, -1));
    return real(fd, data, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    REAL(writev);
    FAIL_IF(fails(WRITE, fd, -1));
    return real(fd, parts, count);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags)
{
    REAL(pwritev64v2);
    FAIL_IF(fails(WRITE, fd, at));
    return real(fd, parts, count, at, flags);
}

#define SYNCS(name) \
    int name(int fd) \
    { \
        REAL(name); \
        FAIL_IF(fails(SYNC, fd, -1)); \
        return real(fd); \
    }
SYNCS(fsync)
SYNCS(fdatasync)

#define PREAD(name) \
    ssize_t name(int fd, void *data, size_t length, off_t at) \
    { \
        REAL(name); \
        FAIL_IF(fails(READ, fd, at)); \
        return real(fd, data, length, at); \
    }
PREAD(pread)
PREAD(pread64)

ssize_t preadv64v2(int fd, const struct iovec *parts, int count, off64_t at, int flags)
{
    REAL(preadv64v2);
    FAIL_IF(fails(READ, fd, at));
    return real(fd, parts, count, at, flags);
}

#define SENDFILE(name) \
    ssize_t name(int out, int in, off_t *at, size_t length) \
    { \
        REAL(name); \
        FAIL_IF(fails(SEND, in, at ? *at : -1)); \
        return real(out, in, at, length); \
    }
ssize_t sendfile(int out, int in, off_t *at, size_t length);
ssize_t sendfile64(int out, int in, off64_t *at, size_t length);
SENDFILE(sendfile)
SENDFILE(sendfile64)

#define OPENS(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        FAIL_IF((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails_by_name(OPEN, path)); \
        return real(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)

int rename(const char *from, const char *to)
{
    REAL(rename);
    FAIL_IF(fails_by_name(NAME, to));
    return real(from, to);
}

int mkdir(const char *path, mode_t mode)
{
    REAL(mkdir);
    FAIL_IF(fails_by_name(NAME, path));
    return real(path, mode);
}

int unlink(const char *path)
{
    REAL(unlink);
    FAIL_IF(fails_by_name(NAME, path));
    return real(path);
}

#define TRUNCATES(name) \
    int name(int fd, off_t length) \
    { \
        REAL(name); \
        FAIL_IF(fails(SIZE, fd, -1)); \
        return real(fd, length); \
    }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)

#define ALLOCATES(name) \
    int name(int fd, off_t at, off_t length) \
    { \
        REAL(name); \
        return fails(SIZE, fd, -1) ? errno : real(fd, at, length); \
    }
ALLOCATES(posix_fallocate)
ALLOCATES(posix_fallocate64)
