/* Records what a process does to the files of one folder: preloaded, it appends a record to a log for each call.
 *
 * Promise: a record is in the log before the call returns to the program, so whatever the program does because of a call stands
 * behind it; a sync has two records, and covers what stands before the first one. Stores through a mapping are not seen: the
 * mapping itself is recorded.
 *
 * RECORDER_LOG: the log. RECORDER_ROOT: the folder. Spec of the records: tests/power/disk.py. Kind: shell of the tests (Linux).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATED = 1, WRITTEN, SIZED, GROWN, SYNC_BEGUN, SYNC_ENDED, FOLDER_MADE, UNLINKED, RENAMED, MAPPED, UNKNOWN };

struct record {
    uint32_t kind, flags;
    uint64_t inode, offset, length;
};

static int log_fd = -1;
static char root[PATH_MAX];
static size_t root_length;
static dev_t device;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) abort();
    return found;
}

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("RECORDER_LOG"), *folder = getenv("RECORDER_ROOT");
    struct stat about;
    if (path == NULL || folder == NULL || stat(folder, &about) != 0) return;
    device = about.st_dev;
    root_length = strlen(folder);
    memcpy(root, folder, root_length + 1);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 700); /* out of the way of who counts descriptors */
    if (log_fd < 0) abort();
    close(fd);
}

/* One call of the kernel on a file opened for appending: whole, and in one order for all processes. */
static void append(uint32_t kind, uint32_t flags, uint64_t inode, uint64_t offset, const struct iovec *parts, int count) {
    int error = errno;
    struct record record = {kind, flags, inode, offset, 0};
    struct iovec all[count + 1];
    all[0] = (struct iovec){&record, sizeof record};
    for (int at = 0; at < count; at++) {
        all[at + 1] = parts[at];
        record.length += parts[at].iov_len;
    }
    if (syscall(SYS_writev, log_fd, all, count + 1) != (long)(sizeof record + record.length)) abort();
    errno = error;
}

static void append_text(uint32_t kind, uint64_t inode, const char *text, size_t length) {
    append(kind, 0, inode, 0, &(struct iovec){(void *)text, length}, 1);
}

/* Names are changed one at a time, in all processes: who finds a folder must find its record before his own. */
static pthread_mutex_t naming = PTHREAD_MUTEX_INITIALIZER;

static void lock_names(short kind) {
    int error = errno;
    struct flock all = {.l_type = kind, .l_whence = SEEK_SET};
    if (log_fd < 0) return;
    if (kind == F_WRLCK) pthread_mutex_lock(&naming);
    while (fcntl(log_fd, F_OFD_SETLKW, &all) != 0)
        if (errno != EINTR) abort();
    if (kind == F_UNLCK) pthread_mutex_unlock(&naming);
    errno = error;
}

#define NAMING(type, expression)                                                 \
    ({                                                                           \
        lock_names(F_WRLCK);                                                     \
        type outcome = (expression);                                             \
        lock_names(F_UNLCK);                                                     \
        outcome;                                                                 \
    })

/* The inode of a regular file or folder on the device of the root, else 0. */
static uint64_t inode_of(int fd, int *flags) {
    struct stat about;
    if (log_fd < 0 || fstat(fd, &about) != 0 || about.st_dev != device) return 0;
    if (!S_ISREG(about.st_mode) && !S_ISDIR(about.st_mode)) return 0;
    if (flags != NULL) *flags = fcntl(fd, F_GETFL);
    return about.st_ino;
}

/* The absolute path of what a call names; 0 when it is not under the root. */
static int resolved(int folder, const char *path, char *out) {
    if (log_fd < 0 || path == NULL) return 0;
    if (path[0] == '/') {
        if (strlen(path) >= PATH_MAX) return 0;
        strcpy(out, path);
    } else {
        char link[64];
        if (folder == AT_FDCWD) strcpy(link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, out, PATH_MAX - 1);
        if (length < 0 || length + strlen(path) + 2 > PATH_MAX) return 0;
        out[length] = '/';
        strcpy(out + length + 1, path);
    }
    return strncmp(out, root, root_length) == 0 && (out[root_length] == '/' || out[root_length] == 0);
}

static int opened(int fd, int folder, const char *path, int flags) {
    char absolute[PATH_MAX];
    if (fd >= 0 && (flags & (O_CREAT | O_TRUNC)) && resolved(folder, path, absolute)) {
        uint64_t inode = inode_of(fd, NULL);
        if ((flags & __O_TMPFILE) == __O_TMPFILE) append_text(UNKNOWN, inode, "O_TMPFILE", 9);
        else if (inode) append(CREATED, (flags & O_TRUNC) != 0, inode, 0, &(struct iovec){absolute, strlen(absolute)}, 1);
    }
    return fd;
}

#define MODE(flags, mode)                                                        \
    mode_t mode = 0;                                                             \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                     \
        va_list rest;                                                            \
        va_start(rest, flags);                                                   \
        mode = va_arg(rest, mode_t);                                             \
        va_end(rest);                                                            \
    }

int open(const char *path, int flags, ...) { MODE(flags, mode) return flags & O_CREAT ? NAMING(int, opened(REAL(open)(path, flags, mode), AT_FDCWD, path, flags)) : opened(REAL(open)(path, flags, mode), AT_FDCWD, path, flags); }
int open64(const char *path, int flags, ...) { MODE(flags, mode) return flags & O_CREAT ? NAMING(int, opened(REAL(open64)(path, flags, mode), AT_FDCWD, path, flags)) : opened(REAL(open64)(path, flags, mode), AT_FDCWD, path, flags); }
int openat(int at, const char *path, int flags, ...) { MODE(flags, mode) return flags & O_CREAT ? NAMING(int, opened(REAL(openat)(at, path, flags, mode), at, path, flags)) : opened(REAL(openat)(at, path, flags, mode), at, path, flags); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags, mode) return flags & O_CREAT ? NAMING(int, opened(REAL(openat64)(at, path, flags, mode), at, path, flags)) : opened(REAL(openat64)(at, path, flags, mode), at, path, flags); }
int creat(const char *path, mode_t mode) { return NAMING(int, opened(REAL(creat)(path, mode), AT_FDCWD, path, O_CREAT | O_TRUNC)); }

static void wrote(int fd, ssize_t done, off_t offset, const struct iovec *parts, int count) {
    int flags;
    uint64_t inode;
    if (done <= 0 || (inode = inode_of(fd, &flags)) == 0) return;
    if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - done;
    struct iovec kept[count];
    int used = 0;
    for (size_t left = (size_t)done; left > 0 && used < count; used++) {
        kept[used] = parts[used];
        if (kept[used].iov_len > left) kept[used].iov_len = left;
        left -= kept[used].iov_len;
    }
    append(WRITTEN, (flags & O_DSYNC) != 0, inode, (uint64_t)offset, kept, used);
}

ssize_t write(int fd, const void *data, size_t length) {
    ssize_t done = REAL(write)(fd, data, length);
    wrote(fd, done, -1, &(struct iovec){(void *)data, length}, 1);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    ssize_t done = REAL(writev)(fd, parts, count);
    wrote(fd, done, -1, parts, count);
    return done;
}

#define PWRITE(name, type)                                                       \
    ssize_t name(int fd, const void *data, size_t length, type offset) {         \
        ssize_t done = REAL(name)(fd, data, length, offset);                     \
        wrote(fd, done, offset, &(struct iovec){(void *)data, length}, 1);       \
        return done;                                                             \
    }
#define PWRITEV(name, type)                                                      \
    ssize_t name(int fd, const struct iovec *parts, int count, type offset) {    \
        ssize_t done = REAL(name)(fd, parts, count, offset);                     \
        wrote(fd, done, offset, parts, count);                                   \
        return done;                                                             \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)
PWRITEV(pwritev, off_t)
PWRITEV(pwritev64, off64_t)

ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    ssize_t done = REAL(pwritev2)(fd, parts, count, offset, flags);
    wrote(fd, done, offset, parts, count);
    return done;
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    ssize_t done = REAL(pwritev64v2)(fd, parts, count, offset, flags);
    wrote(fd, done, offset, parts, count);
    return done;
}

static int sized(int result, int fd, uint32_t kind, off_t size) {
    uint64_t inode;
    if (result == 0 && (inode = inode_of(fd, NULL)) != 0) append(kind, 0, inode, (uint64_t)size, NULL, 0);
    return result;
}

int ftruncate(int fd, off_t size) { return sized(REAL(ftruncate)(fd, size), fd, SIZED, size); }
int ftruncate64(int fd, off64_t size) { return sized(REAL(ftruncate64)(fd, size), fd, SIZED, size); }
int posix_fallocate(int fd, off_t at, off_t length) { return sized(REAL(posix_fallocate)(fd, at, length), fd, GROWN, at + length); }
int posix_fallocate64(int fd, off64_t at, off64_t length) { return sized(REAL(posix_fallocate64)(fd, at, length), fd, GROWN, at + length); }

static int sized_path(int result, const char *path, off_t size) {
    char absolute[PATH_MAX];
    struct stat about;
    if (result == 0 && resolved(AT_FDCWD, path, absolute) && stat(absolute, &about) == 0)
        append(SIZED, 0, about.st_ino, (uint64_t)size, NULL, 0);
    return result;
}

int truncate(const char *path, off_t size) { return sized_path(REAL(truncate)(path, size), path, size); }
int truncate64(const char *path, off64_t size) { return sized_path(REAL(truncate64)(path, size), path, size); }

static int synced(int (*sync_file)(int), int fd) {
    uint64_t inode = inode_of(fd, NULL), token = (uint64_t)syscall(SYS_gettid);
    if (inode == 0) return sync_file(fd);
    append(SYNC_BEGUN, 0, inode, token, NULL, 0);
    int result = sync_file(fd);
    if (result == 0) append(SYNC_ENDED, 0, inode, token, NULL, 0);
    return result;
}

int fsync(int fd) { return synced(REAL(fsync), fd); }
int fdatasync(int fd) { return synced(REAL(fdatasync), fd); }

int mkdirat(int at, const char *path, mode_t mode);
static int made(int result, int at, const char *path) {
    char absolute[PATH_MAX];
    struct stat about;
    if (result == 0 && resolved(at, path, absolute) && stat(absolute, &about) == 0)
        append_text(FOLDER_MADE, about.st_ino, absolute, strlen(absolute));
    return result;
}
int mkdir(const char *path, mode_t mode) { return NAMING(int, made(REAL(mkdir)(path, mode), AT_FDCWD, path)); }
int mkdirat(int at, const char *path, mode_t mode) { return NAMING(int, made(REAL(mkdirat)(at, path, mode), at, path)); }

static int removed(int result, int at, const char *path) {
    char absolute[PATH_MAX];
    if (result == 0 && resolved(at, path, absolute)) append_text(UNLINKED, 0, absolute, strlen(absolute));
    return result;
}
int unlink(const char *path) { return NAMING(int, removed(REAL(unlink)(path), AT_FDCWD, path)); }
int unlinkat(int at, const char *path, int flags) { return NAMING(int, removed(REAL(unlinkat)(at, path, flags), at, path)); }
int rmdir(const char *path) { return NAMING(int, removed(REAL(rmdir)(path), AT_FDCWD, path)); }
int remove(const char *path) { return NAMING(int, removed(REAL(remove)(path), AT_FDCWD, path)); }

static int moved(int result, int from_at, const char *from, int to_at, const char *to) {
    char both[2 * PATH_MAX], *second;
    if (result != 0 || !resolved(from_at, from, both)) return result;
    second = both + strlen(both) + 1;
    if (resolved(to_at, to, second)) append_text(RENAMED, 0, both, (size_t)(second - both) + strlen(second));
    return result;
}
int rename(const char *from, const char *to) { return NAMING(int, moved(REAL(rename)(from, to), AT_FDCWD, from, AT_FDCWD, to)); }
int renameat(int at, const char *from, int to_at, const char *to) { return NAMING(int, moved(REAL(renameat)(at, from, to_at, to), at, from, to_at, to)); }

/* Not used by the gateway today; the log says so if it ever is, and the reader of the log refuses it. */
int linkat(int at, const char *from, int to_at, const char *to, int flags) {
    char absolute[PATH_MAX];
    int result = REAL(linkat)(at, from, to_at, to, flags);
    if (result == 0 && resolved(to_at, to, absolute)) append_text(UNKNOWN, 0, "linkat", 6);
    return result;
}
int link(const char *from, const char *to) {
    char absolute[PATH_MAX];
    int result = REAL(link)(from, to);
    if (result == 0 && resolved(AT_FDCWD, to, absolute)) append_text(UNKNOWN, 0, "link", 4);
    return result;
}

static void *mapped(void *result, int protection, int flags, int fd) {
    uint64_t inode;
    if (result != MAP_FAILED && fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED) && (inode = inode_of(fd, NULL)))
        append(MAPPED, 0, inode, 0, NULL, 0);
    return result;
}
void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return mapped(REAL(mmap)(at, length, protection, flags, fd, offset), protection, flags, fd);
}
void *mmap64(void *at, size_t length, int protection, int flags, int fd, off64_t offset) {
    return mapped(REAL(mmap64)(at, length, protection, flags, fd, offset), protection, flags, fd);
}
