// Big-endian numbers in commands and requests.
#ifndef SWTPM_BYTES_H
#define SWTPM_BYTES_H

#include <stdint.h>

static inline uint16_t be16(const unsigned char *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t be32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

#endif
