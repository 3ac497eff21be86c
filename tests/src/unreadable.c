/* Lets reads of a part of a file fail with EIO until it is written, as bad sectors of a drive do. It is loaded before
 * other libraries, and stands before the system's `pread` and `pwrite`. Pages that can be read again are noted in a
 * file, so that later processes can read them too.
 *
 * UNREADABLE_FILE: the file. UNREADABLE_FROM: the first byte. UNREADABLE_NOTES: a file with a byte per page. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096 };

static struct stat file;
static off64_t first_page, end_page;
static unsigned char *written;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("UNREADABLE_FILE"), *from = getenv("UNREADABLE_FROM");
    const char *notes = getenv("UNREADABLE_NOTES");
    struct stat size;
    if (!path || !from || !notes || stat(path, &file) != 0)
        abort();
    int fd = open(notes, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &size) != 0)
        abort();
    void *map = mmap(NULL, size.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED)
        abort();
    first_page = atoll(from) / PAGE;
    end_page = first_page + size.st_size;
    written = map;
}

static int is_the_file(int fd)
{
    struct stat other;
    return written && fstat(fd, &other) == 0 && other.st_dev == file.st_dev && other.st_ino == file.st_ino;
}

ssize_t pread64(int fd, void *buffer, size_t bytes, off64_t offset)
{
    off64_t end = offset + (off64_t)bytes;
    for (off64_t page = first_page; page < end_page; page++)
        if (page * PAGE < end && offset < (page + 1) * PAGE && is_the_file(fd) && !written[page - first_page]) {
            errno = EIO;
            return -1;
        }
    return syscall(SYS_pread64, fd, buffer, bytes, offset);
}

ssize_t pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset)
{
    ssize_t done = syscall(SYS_pwrite64, fd, buffer, bytes, offset);
    for (off64_t page = first_page; done > 0 && page < end_page; page++)
        if (offset <= page * PAGE && (page + 1) * PAGE <= offset + done && is_the_file(fd))
            written[page - first_page] = 1;
    return done;
}

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset) { return pread64(fd, buffer, bytes, offset); }

ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset) { return pwrite64(fd, buffer, bytes, offset); }
