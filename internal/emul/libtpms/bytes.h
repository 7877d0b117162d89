// The bytes of commands, responses and requests: big-endian numbers, the header and its tags.
#ifndef SWTPM_BYTES_H
#define SWTPM_BYTES_H

#include <stdint.h>

static inline uint16_t be16(const unsigned char *p) { return (uint16_t)(p[0] << 8 | p[1]); }

static inline uint32_t be32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

// The header of a command, and of a response, which has its result in the place of the code.
enum { SIZE_AT = 2, CODE_AT = 6, HEADER = 10 };

// The tags of commands; see internal/tpm.
enum { TAG_12 = 0x00c1, TAG_12_AUTH1 = 0x00c2, TAG_12_AUTH2 = 0x00c3, TAG_NO_SESSIONS = 0x8001, TAG_SESSIONS = 0x8002 };

#endif
