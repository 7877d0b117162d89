/*
 * The control channel of swtpm, for programs in C: see swtpm_ioctls(3).
 *
 * The channel has two carriers with the same requests:
 *
 *   socket   A request is its number CMD_*, then the member u.req of its
 *            structure. The reply is the member u.resp. All integers are
 *            big-endian. Of a structure that ends in an array, only the bytes
 *            that its length announces are sent.
 *   device   The requests are the ioctls PTM_* of a device /dev/NAME of
 *            "swtpm cuse". The structure is in the byte order of the machine.
 *
 * Names, values and layout are the same as in swtpm's header of the same name, so that
 * programs compile with either header.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef _TPM_IOCTL_H_
#define _TPM_IOCTL_H_

#include <stdint.h>
#include <sys/types.h>
#ifndef _WIN32
#include <sys/ioctl.h>
#include <sys/uio.h>
#endif

/* The result that every reply begins with: 0, or an error code of the TPM. */
typedef uint32_t ptm_res;

/* --- Numbers of the requests on a socket --- */

enum {
	CMD_GET_CAPABILITY = 0x01,
	CMD_INIT = 0x02,
	CMD_SHUTDOWN = 0x03,
	CMD_GET_TPMESTABLISHED = 0x04,
	CMD_SET_LOCALITY = 0x05,
	CMD_HASH_START = 0x06,
	CMD_HASH_DATA = 0x07,
	CMD_HASH_END = 0x08,
	CMD_CANCEL_TPM_CMD = 0x09,
	CMD_STORE_VOLATILE = 0x0A,
	CMD_RESET_TPMESTABLISHED = 0x0B,
	CMD_GET_STATEBLOB = 0x0C,
	CMD_SET_STATEBLOB = 0x0D,
	CMD_STOP = 0x0E,
	CMD_GET_CONFIG = 0x0F,
	CMD_SET_DATAFD = 0x10, /* the descriptor comes with it, by SCM_RIGHTS */
	CMD_SET_BUFFERSIZE = 0x11,
	CMD_GET_INFO = 0x12,
	CMD_LOCK_STORAGE = 0x13
};

/* --- What a TPM can do: GET_CAPABILITY --- */

#define PTM_CAP_INIT 0x00001
#define PTM_CAP_SHUTDOWN 0x00002
#define PTM_CAP_GET_TPMESTABLISHED 0x00004
#define PTM_CAP_SET_LOCALITY 0x00008
#define PTM_CAP_HASHING 0x00010
#define PTM_CAP_CANCEL_TPM_CMD 0x00020
#define PTM_CAP_STORE_VOLATILE 0x00040
#define PTM_CAP_RESET_TPMESTABLISHED 0x00080
#define PTM_CAP_GET_STATEBLOB 0x00100
#define PTM_CAP_SET_STATEBLOB 0x00200
#define PTM_CAP_STOP 0x00400
#define PTM_CAP_GET_CONFIG 0x00800
#define PTM_CAP_SET_DATAFD 0x01000
#define PTM_CAP_SET_BUFFERSIZE 0x02000
#define PTM_CAP_GET_INFO 0x04000
#define PTM_CAP_SEND_COMMAND_HEADER 0x08000 /* a locality may precede a command */
#define PTM_CAP_LOCK_STORAGE 0x10000

/* On a device: the capabilities alone, without a result. */
typedef uint64_t ptm_cap;

/* On a socket. */
typedef struct ptm_cap_n {
	union {
		struct {
			ptm_res tpm_result;
			uint32_t caps;
		} resp;
	} u;
} ptm_cap_n;

/* --- Power: INIT. SHUTDOWN and STOP have no structure but the result. --- */

#define PTM_INIT_FLAG_DELETE_VOLATILE 0x1 /* remove the volatile state once it is loaded */

typedef struct ptm_init {
	union {
		struct {
			uint32_t init_flags;
		} req;
		struct {
			ptm_res tpm_result;
		} resp;
	} u;
} ptm_init;

/* --- Locality and the tpmEstablished bit --- */

typedef struct ptm_est {
	union {
		struct {
			ptm_res tpm_result;
			unsigned char bit; /* 0 or 1; three bytes of padding follow */
		} resp;
	} u;
} ptm_est;

typedef struct ptm_loc {
	union {
		struct {
			uint8_t loc; /* 0 to 4 */
		} req;
		struct {
			ptm_res tpm_result;
		} resp;
	} u;
} ptm_loc;

typedef struct ptm_reset_est {
	union {
		struct {
			uint8_t loc; /* 3 or 4, at which the bit is reset */
		} req;
		struct {
			ptm_res tpm_result;
		} resp;
	} u;
} ptm_reset_est;

/* --- A measurement outside of TPM commands: HASH_DATA --- */

typedef struct ptm_hdata {
	union {
		struct {
			uint32_t length;
			uint8_t data[4096];
		} req;
		struct {
			ptm_res tpm_result;
		} resp;
	} u;
} ptm_hdata;

/* --- State blobs --- */

#define PTM_BLOB_TYPE_PERMANENT 1
#define PTM_BLOB_TYPE_VOLATILE 2
#define PTM_BLOB_TYPE_SAVESTATE 3
#define PTM_BLOB_TYPE_SNAPSHOT 0x534e4150 /* GET_STATEBLOB: all of one moment; other programs refuse it */

#define PTM_STATE_FLAG_DECRYPTED 1 /* GET_STATEBLOB: without the encryption of the state file */
#define PTM_STATE_FLAG_ENCRYPTED 2 /* the blob has this encryption */

/* The most bytes of a blob in one ioctl. A longer one takes several. */
#define PTM_STATE_BLOB_SIZE 3072

typedef struct ptm_getstate {
	union {
		struct {
			uint32_t state_flags;
			uint32_t type;
			uint32_t offset;
		} req;
		struct {
			ptm_res tpm_result;
			uint32_t state_flags;
			uint32_t totlength; /* bytes of the blob; on a socket without those before the offset */
			uint32_t length; /* bytes in this reply; on a socket all */
			uint8_t data[PTM_STATE_BLOB_SIZE];
		} resp;
	} u;
} ptm_getstate;

typedef struct ptm_setstate {
	union {
		struct {
			uint32_t state_flags;
			uint32_t type;
			uint32_t length; /* on a device: PTM_STATE_BLOB_SIZE if more follows */
			uint8_t data[PTM_STATE_BLOB_SIZE];
		} req;
		struct {
			ptm_res tpm_result;
		} resp;
	} u;
} ptm_setstate;

/* --- Keys, sizes, description, storage lock --- */

#define PTM_CONFIG_FLAG_FILE_KEY 0x1
#define PTM_CONFIG_FLAG_MIGRATION_KEY 0x2

typedef struct ptm_getconfig {
	union {
		struct {
			ptm_res tpm_result;
			uint32_t flags;
		} resp;
	} u;
} ptm_getconfig;

typedef struct ptm_setbuffersize {
	union {
		struct {
			uint32_t buffersize; /* 0 changes nothing and asks */
		} req;
		struct {
			ptm_res tpm_result;
			uint32_t buffersize;
			uint32_t minsize;
			uint32_t maxsize;
		} resp;
	} u;
} ptm_setbuffersize;

/* The parts of the description that GET_INFO returns: a set of bits. */
#define SWTPM_INFO_TPMSPECIFICATION ((uint64_t)0x01)
#define SWTPM_INFO_TPMATTRIBUTES ((uint64_t)0x02)
#define SWTPM_INFO_TPMFEATURES ((uint64_t)0x04)
#define SWTPM_INFO_RUNTIME_ALGORITHMS ((uint64_t)0x08)
#define SWTPM_INFO_RUNTIME_COMMANDS ((uint64_t)0x10)
#define SWTPM_INFO_ACTIVE_PROFILE ((uint64_t)0x20)
#define SWTPM_INFO_AVAILABLE_PROFILES ((uint64_t)0x40)
#define SWTPM_INFO_RUNTIME_ATTRIBUTES ((uint64_t)0x80)

/* The most bytes of text in one reply. */
#define PTM_GETINFO_SIZE 3072

typedef struct ptm_getinfo {
	union {
		struct {
			uint64_t flags;
			uint32_t offset;
			uint32_t pad;
		} req;
		struct {
			ptm_res tpm_result;
			uint32_t totlength; /* bytes of the text with the NUL at its end */
			uint32_t length; /* bytes in this reply */
			char buffer[PTM_GETINFO_SIZE];
		} resp;
	} u;
} ptm_getinfo;

typedef struct ptm_lockstorage {
	union {
		struct {
			uint32_t retries; /* 10 ms apart */
		} req;
		struct {
			ptm_res tpm_result;
		} resp;
	} u;
} ptm_lockstorage;

/* --- The requests on a device, where the system has ioctls of this kind --- */

#if defined(_IOR) && !defined(__GNU__)
#define PTM_GET_CAPABILITY _IOR('P', 0, ptm_cap)
#define PTM_INIT _IOWR('P', 1, ptm_init)
#define PTM_SHUTDOWN _IOR('P', 2, ptm_res)
#define PTM_GET_TPMESTABLISHED _IOR('P', 3, ptm_est)
#define PTM_SET_LOCALITY _IOWR('P', 4, ptm_loc)
#define PTM_HASH_START _IOR('P', 5, ptm_res)
#define PTM_HASH_DATA _IOWR('P', 6, ptm_hdata)
#define PTM_HASH_END _IOR('P', 7, ptm_res)
#define PTM_CANCEL_TPM_CMD _IOR('P', 8, ptm_res)
#define PTM_STORE_VOLATILE _IOR('P', 9, ptm_res)
#define PTM_RESET_TPMESTABLISHED _IOWR('P', 10, ptm_reset_est)
#define PTM_GET_STATEBLOB _IOWR('P', 11, ptm_getstate)
#define PTM_SET_STATEBLOB _IOWR('P', 12, ptm_setstate)
#define PTM_STOP _IOR('P', 13, ptm_res)
#define PTM_GET_CONFIG _IOR('P', 14, ptm_getconfig)
#define PTM_SET_DATAFD _IOR('P', 15, ptm_res) /* EINVAL: sockets alone have it */
#define PTM_SET_BUFFERSIZE _IOWR('P', 16, ptm_setbuffersize)
#define PTM_GET_INFO _IOWR('P', 17, ptm_getinfo)
#define PTM_LOCK_STORAGE _IOWR('P', 18, ptm_lockstorage)
#endif

#endif
