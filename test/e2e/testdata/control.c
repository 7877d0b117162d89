/* Goes through the requests of the control channel on the Unix socket argv[1] and
 * prints one line for each: its name, the result and what the reply says. */
#include <arpa/inet.h>
#include <endian.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <swtpm/tpm_ioctl.h>

static int channel;
static unsigned char blob[512 * 1024];
static size_t blob_size;

static void take(void *to, size_t size)
{
	size_t have = 0;

	while (have < size) {
		ssize_t n = read(channel, (char *)to + have, size - have);

		if (n <= 0) {
			fprintf(stderr, "%zu bytes of a reply are missing\n", size - have);
			exit(1);
		}
		have += (size_t)n;
	}
}

static void give(uint32_t command, const void *body, size_t size, const void *more, size_t more_size)
{
	uint32_t code = htonl(command);
	struct iovec parts[3] = { { &code, sizeof(code) }, { (void *)(size_t)body, size }, { (void *)(size_t)more, more_size } };

	if (writev(channel, parts, 3) != (ssize_t)(sizeof(code) + size + more_size)) {
		perror("writev");
		exit(1);
	}
}

/* plain is a request without a structure. */
static void plain(const char *name, uint32_t command)
{
	ptm_res res;

	give(command, NULL, 0, NULL, 0);
	take(&res, sizeof(res));
	printf("%s 0x%x\n", name, ntohl(res));
}

static void describe(void)
{
	ptm_cap_n cap;
	ptm_getconfig config;
	ptm_setbuffersize size = { { { 0 } } };
	ptm_getinfo info;

	give(CMD_GET_CAPABILITY, NULL, 0, NULL, 0);
	take(&cap.u.resp, sizeof(cap.u.resp));
	printf("GET_CAPABILITY 0x%x 0x%x\n", ntohl(cap.u.resp.tpm_result), ntohl(cap.u.resp.caps));

	give(CMD_GET_CONFIG, NULL, 0, NULL, 0);
	take(&config.u.resp, sizeof(config.u.resp));
	printf("GET_CONFIG 0x%x 0x%x\n", ntohl(config.u.resp.tpm_result), ntohl(config.u.resp.flags));

	give(CMD_SET_BUFFERSIZE, &size.u.req, sizeof(size.u.req), NULL, 0);
	take(&size.u.resp, sizeof(size.u.resp));
	printf("SET_BUFFERSIZE 0x%x %d\n", ntohl(size.u.resp.tpm_result),
	       ntohl(size.u.resp.minsize) <= ntohl(size.u.resp.buffersize) && ntohl(size.u.resp.buffersize) <= ntohl(size.u.resp.maxsize));

	memset(&info, 0, sizeof(info));
	info.u.req.flags = htobe64(SWTPM_INFO_TPMSPECIFICATION);
	give(CMD_GET_INFO, &info.u.req, sizeof(info.u.req), NULL, 0);
	take(&info.u.resp, offsetof(ptm_getinfo, u.resp.buffer));
	if (ntohl(info.u.resp.length) > sizeof(info.u.resp.buffer))
		exit(1);
	take(info.u.resp.buffer, ntohl(info.u.resp.length));
	printf("GET_INFO 0x%x %s\n", ntohl(info.u.resp.tpm_result), info.u.resp.buffer);
}

static void power_on(void)
{
	ptm_init init = { { { htonl(PTM_INIT_FLAG_DELETE_VOLATILE) } } };
	ptm_res res;

	give(CMD_INIT, &init.u.req, sizeof(init.u.req), NULL, 0);
	take(&res, sizeof(res));
	printf("INIT 0x%x\n", ntohl(res));
}

static void established(void)
{
	ptm_est est;
	ptm_loc loc = { { { 3 } } };
	ptm_reset_est reset = { { { 3 } } };
	ptm_hdata data;

	give(CMD_SET_LOCALITY, &loc.u.req, sizeof(loc.u.req), NULL, 0);
	take(&loc.u.resp, sizeof(loc.u.resp));
	printf("SET_LOCALITY 0x%x\n", ntohl(loc.u.resp.tpm_result));

	plain("HASH_START", CMD_HASH_START);
	data.u.req.length = htonl(3);
	memcpy(data.u.req.data, "abc", 3);
	give(CMD_HASH_DATA, &data.u.req, offsetof(ptm_hdata, u.req.data) + 3, NULL, 0);
	take(&data.u.resp, sizeof(data.u.resp));
	printf("HASH_DATA 0x%x\n", ntohl(data.u.resp.tpm_result));
	plain("HASH_END", CMD_HASH_END);

	give(CMD_GET_TPMESTABLISHED, NULL, 0, NULL, 0);
	take(&est.u.resp, sizeof(est.u.resp));
	printf("GET_TPMESTABLISHED 0x%x %d\n", ntohl(est.u.resp.tpm_result), est.u.resp.bit);
	give(CMD_RESET_TPMESTABLISHED, &reset.u.req, sizeof(reset.u.req), NULL, 0);
	take(&reset.u.resp, sizeof(reset.u.resp));
	printf("RESET_TPMESTABLISHED 0x%x\n", ntohl(reset.u.resp.tpm_result));
	plain("CANCEL_TPM_CMD", CMD_CANCEL_TPM_CMD);
}

static void fetch(void)
{
	ptm_getstate state = { { { htonl(PTM_STATE_FLAG_DECRYPTED), htonl(PTM_BLOB_TYPE_PERMANENT), 0 } } };

	plain("STORE_VOLATILE", CMD_STORE_VOLATILE);
	give(CMD_GET_STATEBLOB, &state.u.req, sizeof(state.u.req), NULL, 0);
	take(&state.u.resp, offsetof(ptm_getstate, u.resp.data));
	blob_size = ntohl(state.u.resp.length);
	if (blob_size > sizeof(blob))
		exit(1);
	take(blob, blob_size);
	printf("GET_STATEBLOB 0x%x 0x%x %d %d\n", ntohl(state.u.resp.tpm_result), ntohl(state.u.resp.state_flags),
	       blob_size > PTM_STATE_BLOB_SIZE / 4, ntohl(state.u.resp.totlength) == blob_size);
}

static void load(void)
{
	ptm_setstate state = { { { 0, htonl(PTM_BLOB_TYPE_PERMANENT), htonl((uint32_t)blob_size), { 0 } } } };
	ptm_lockstorage lock = { { { htonl(3) } } };

	give(CMD_LOCK_STORAGE, &lock.u.req, sizeof(lock.u.req), NULL, 0);
	take(&lock.u.resp, sizeof(lock.u.resp));
	printf("LOCK_STORAGE 0x%x\n", ntohl(lock.u.resp.tpm_result));
	give(CMD_SET_STATEBLOB, &state.u.req, offsetof(ptm_setstate, u.req.data), blob, blob_size);
	take(&state.u.resp, sizeof(state.u.resp));
	printf("SET_STATEBLOB 0x%x\n", ntohl(state.u.resp.tpm_result));
}

int main(int argc, char **argv)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };

	if (argc != 2 || strlen(argv[1]) >= sizeof(to.sun_path))
		return 2;
	strcpy(to.sun_path, argv[1]);
	channel = socket(AF_UNIX, SOCK_STREAM, 0);
	if (channel < 0 || connect(channel, (struct sockaddr *)&to, sizeof(to)) != 0) {
		perror(argv[1]);
		return 1;
	}
	describe();
	power_on();
	established();
	fetch();
	plain("STOP", CMD_STOP);
	load();
	power_on();
	plain("SHUTDOWN", CMD_SHUTDOWN);
	return 0;
}
