/*
 * gzip <IN >OUT: write a valid gzip file (RFC 1952) whose data are stored as they are (RFC 1951, 3.2.4).
 *
 * CRIU packs the contents of each tmpfs by `tar --gzip` while all processes are frozen; compressing takes most of that
 * time. The worker's PATH has this program first. If it is called with arguments, it executes the real gzip.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <unistd.h>

#define BLOCK 65535 /* the most that a stored block holds */
#define SLICES 8

static uint32_t table[SLICES][256];

static void make_table(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
		table[0][i] = crc;
	}
	for (int slice = 1; slice < SLICES; slice++)
		for (int i = 0; i < 256; i++)
			table[slice][i] = table[slice - 1][i] >> 8 ^ table[0][table[slice - 1][i] & 0xff];
}

/* Take eight bytes at a time. Each has a table of its own, which tells what the bytes after it make of it. */
static uint32_t crc32(uint32_t crc, const unsigned char *data, size_t size)
{
	crc = ~crc;
	for (; size >= SLICES; size -= SLICES, data += SLICES) {
		uint32_t next = 0;

		for (int i = 0; i < SLICES; i++)
			next ^= table[SLICES - 1 - i][(i < 4 ? crc >> 8 * i & 0xff : 0) ^ data[i]];
		crc = next;
	}
	for (; size; size--)
		crc = crc >> 8 ^ table[0][(crc ^ *data++) & 0xff];
	return ~crc;
}

/* Read as many bytes as there are, up to size; -1 if reading fails. */
static ssize_t fill(unsigned char *data, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t count = read(STDIN_FILENO, data + done, size - done);

		if (count < 0)
			return -1;
		if (!count)
			break;
		done += (size_t)count;
	}
	return (ssize_t)done;
}

static int put(const unsigned char *data, size_t size)
{
	while (size) {
		ssize_t count = write(STDOUT_FILENO, data, size);

		if (count < 0)
			return -1;
		data += count;
		size -= (size_t)count;
	}
	return 0;
}

static void little_endian(unsigned char *to, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		to[i] = (unsigned char)(value >> 8 * i);
}

int main(int argc, char **argv)
{
	static const unsigned char header[] = { 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3 };
	static unsigned char block[5 + BLOCK];
	unsigned char trailer[8];
	uint32_t crc = 0, total = 0;
	ssize_t size;

	if (argc > 1) {
		execv("/usr/bin/gzip", argv);
		return 127;
	}
	make_table();
	if (put(header, sizeof(header)))
		return 1;
	do {
		size = fill(block + 5, BLOCK);
		if (size < 0)
			return 1;
		block[0] = size < BLOCK; /* the last one, which may be empty */
		little_endian(block + 1, (uint32_t)size | ~(uint32_t)size << 16);
		crc = crc32(crc, block + 5, (size_t)size);
		total += (uint32_t)size;
		if (put(block, 5 + (size_t)size))
			return 1;
	} while (size == BLOCK);
	little_endian(trailer, crc);
	little_endian(trailer + 4, total);
	return put(trailer, sizeof(trailer)) ? 1 : 0;
}
