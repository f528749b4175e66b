/* A disk that fails at one chosen operation below one folder; preloaded into a real process.
 *
 * arm(folder, fault, at): the at-th change of the folder (a write, a sync, a file made, renamed,
 * removed or cut) meets the fault:
 *   'k'  kill -9: of a write half is done, of anything else nothing
 *   'f'  full: half of that write is done; from then on nothing can be written or made (ENOSPC)
 *   'e'  EIO, once
 *   's'  a short write, once: half is done, and that is said
 *   'i'  EINTR, once, where the system may give it
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char below[PATH_MAX];
static int fault, at, seen, hit;

void arm(const char *folder, int kind, int number) {
    realpath(folder, below);
    fault = kind, at = number, seen = hit = 0;
}

int was_hit(void) { return hit; }

static int is_below(const char *path) {
    size_t length = strlen(below);
    return length && !strncmp(path, below, length) && (!path[length] || path[length] == '/');
}

static int is_file_below(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

enum kind { WRITE, MAKE, SYNC, OTHER };

/* Whether an operation must not be done: errno says why. A write may have to be halved. */
static int fails(enum kind kind, int *half) {
    int now = ++seen == at;
    if (half) *half = 0;
    if (fault == 'f' && hit && (kind == WRITE || kind == MAKE)) return errno = ENOSPC, 1;
    if (!now) return 0;
    if (fault == 'k') {
        if (half) return *half = 1, 0;
        raise(SIGKILL);
    }
    if (fault == 'f' && kind == WRITE) return hit = *half = 1, 0;
    if (fault == 'f' && kind == MAKE) return hit = 1, errno = ENOSPC, 1;
    if (fault == 'f') at++; /* the next one */
    if (fault == 'e') return hit = 1, errno = EIO, 1;
    if (fault == 's' && kind == WRITE) return hit = *half = 1, 0;
    if (fault == 'i' && kind != OTHER) return hit = 1, errno = EINTR, 1;
    if (fault == 's' || fault == 'i') at++;
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *data, size_t size) {
    int half;
    if (!fault || !is_file_below(file)) return REAL(write)(file, data, size);
    if (fails(WRITE, &half)) return -1;
    if (!half) return REAL(write)(file, data, size);
    ssize_t done = REAL(write)(file, data, size > 1 ? size / 2 : size);
    if (fault == 'k') raise(SIGKILL);
    return done;
}

#define OPEN(name)                                                      \
    int name(const char *path, int flags, ...) {                        \
        va_list more;                                                   \
        va_start(more, flags);                                          \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                   \
        if (fault && flags & O_CREAT && is_below(path) && fails(MAKE, NULL)) return -1; \
        return REAL(name)(path, flags, mode);                           \
    }
OPEN(open)
OPEN(open64)

#define FILE_CALL(name, kind, declared, given)                          \
    int name declared {                                                 \
        if (fault && is_file_below(file) && fails(kind, NULL)) return -1; \
        return REAL(name) given;                                        \
    }
FILE_CALL(fsync, SYNC, (int file), (file))
FILE_CALL(fdatasync, SYNC, (int file), (file))
FILE_CALL(ftruncate, OTHER, (int file, off_t size), (file, size))
FILE_CALL(ftruncate64, OTHER, (int file, off64_t size), (file, size))

#define PATH_CALL(name, kind, declared, given)                          \
    int name declared {                                                 \
        if (fault && is_below(path) && fails(kind, NULL)) return -1;    \
        return REAL(name) given;                                        \
    }
PATH_CALL(mkdir, MAKE, (const char *path, mode_t mode), (path, mode))
PATH_CALL(unlink, OTHER, (const char *path), (path))
PATH_CALL(chmod, OTHER, (const char *path, mode_t mode), (path, mode))
PATH_CALL(rename, OTHER, (const char *path, const char *to), (path, to))
