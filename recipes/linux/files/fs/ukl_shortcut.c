// SPDX-License-Identifier: GPL-2.0
/*
 * System calls of an application at CPL 0 that go past VFS and the socket
 * layer, to the function of a pipe, an eventfd or an internet protocol.
 *
 * Gates of <asm/ukl_bypass.h> come here in place of the function of the system
 * call; calls that somebody looks at do not.  What VFS and the socket layer do
 * that anybody can see is done here as well: errors in their order, the file's
 * reference, security hooks, notifications, accounting.  All other files go the
 * usual way.
 */
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fsnotify.h>
#include <linux/indirect_call_wrapper.h>
#include <linux/net.h>
#include <linux/sched/xacct.h>
#include <linux/security.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <linux/ukl.h>
#include <net/inet_common.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/tcp.h>

#include "internal.h"

INDIRECT_CALLABLE_DECLARE(int udp_recvmsg(struct sock *, struct msghdr *,
					  size_t, int, int *));
INDIRECT_CALLABLE_DECLARE(int udp_sendmsg(struct sock *, struct msghdr *,
					  size_t));

/* Who receives by one of these sends by the function beside it. */
static bool is_inet(const struct socket *sock)
{
	return IS_ENABLED(CONFIG_INET) &&
	       (sock->ops->recvmsg == inet_recvmsg ||
		(IS_BUILTIN(CONFIG_IPV6) && sock->ops->recvmsg == inet6_recvmsg));
}

static struct socket *file_socket(struct file *file)
{
	return IS_ENABLED(CONFIG_NET) ? sock_from_file(file) : NULL;
}

static int dontwait(const struct file *file)
{
	return file->f_flags & O_NONBLOCK ? MSG_DONTWAIT : 0;
}

/* sock_recvmsg() and inet_recvmsg(). */
static __always_inline int recv_inet(struct socket *sock, struct msghdr *msg, int flags)
{
	size_t size = msg_data_left(msg);
	struct sock *sk = sock->sk;
	int addr_len = 0;
	int ret;

	ret = security_socket_recvmsg(sock, msg, size, flags);
	if (ret)
		return ret;

	if (!(flags & MSG_ERRQUEUE))
		sock_rps_record_flow(sk);
	/* IPV6_ADDRFORM can change sk->sk_prot under us. */
	ret = INDIRECT_CALL_2(READ_ONCE(sk->sk_prot)->recvmsg,
			      tcp_recvmsg, udp_recvmsg,
			      sk, msg, size, flags, &addr_len);
	if (ret >= 0)
		msg->msg_namelen = addr_len;
	return ret;
}

/* sock_sendmsg() and inet_sendmsg(). */
static __always_inline int send_inet(struct socket *sock, struct msghdr *msg)
{
	size_t size = msg_data_left(msg);
	struct sock *sk = sock->sk;
	int ret;

	ret = security_socket_sendmsg(sock, msg, size);
	if (ret)
		return ret;

	if (unlikely(inet_send_prepare(sk)))
		return -EAGAIN;
	return INDIRECT_CALL_2(READ_ONCE(sk->sk_prot)->sendmsg,
			       tcp_sendmsg, udp_sendmsg, sk, msg, size);
}

/* What vfs_read() and vfs_write() ask first. */
static __always_inline int verify(struct file *file, const void __user *buf,
				  size_t *count, bool write)
{
	fmode_t mode = write ? FMODE_WRITE : FMODE_READ;
	fmode_t can = write ? FMODE_CAN_WRITE : FMODE_CAN_READ;

	if (unlikely(~file->f_mode & (mode | can)))
		return file->f_mode & mode ? -EINVAL : -EBADF;
	if (!access_ok(buf, *count))
		return -EFAULT;
	if (unlikely(*count > MAX_RW_COUNT)) {
		if ((ssize_t)*count < 0)
			return -EINVAL;
		*count = MAX_RW_COUNT;
	}
	return security_file_permission(file, write ? MAY_WRITE : MAY_READ);
}

/* And what they do in the end. */
static __always_inline void account(struct file *file, ssize_t ret, bool write)
{
	if (ret > 0 && write) {
		fsnotify_modify(file);
		add_wchar(current, ret);
	} else if (ret > 0) {
		fsnotify_access(file);
		add_rchar(current, ret);
	}
	if (write)
		inc_syscw(current);
	else
		inc_syscr(current);
}

/* sock_read_iter() and sock_write_iter(). */
static __always_inline ssize_t rw_inet(struct file *file, struct socket *sock,
				       char __user *buf, size_t count, bool write)
{
	struct msghdr msg = { .msg_flags = dontwait(file) };

	if (!count && !write)
		return 0;

	iov_iter_ubuf(&msg.msg_iter, write ? ITER_SOURCE : ITER_DEST, buf, count);
	if (write && sock->type == SOCK_SEQPACKET)
		msg.msg_flags |= MSG_EOR;
	return write ? send_inet(sock, &msg) : recv_inet(sock, &msg, msg.msg_flags);
}

/* Another socket, a pipe or an eventfd: none has a position. */
static __always_inline ssize_t rw_iter(struct file *file, char __user *buf,
				       size_t count, bool write)
{
	struct kiocb kiocb = { .ki_filp = file, .ki_flags = file->f_iocb_flags };
	struct iov_iter iter;

	if (write && file->f_op->write)
		return file->f_op->write(file, buf, count, NULL);

	iov_iter_ubuf(&iter, write ? ITER_SOURCE : ITER_DEST, buf, count);
	return write ? call_write_iter(file, &kiocb, &iter) :
		       call_read_iter(file, &kiocb, &iter);
}

/* The rest of ksys_read() and ksys_write(), with the lock of __fdget_pos(). */
static noinline ssize_t rw_other(struct file *file, char __user *buf,
				 size_t count, bool write)
{
	bool lock = file->f_mode & FMODE_ATOMIC_POS && file_count(file) > 1;
	loff_t pos, *ppos = file->f_mode & FMODE_STREAM ? NULL : &pos;
	ssize_t ret;

	if (lock)
		mutex_lock(&file->f_pos_lock);
	pos = file->f_pos;
	ret = write ? vfs_write(file, buf, count, ppos) :
		      vfs_read(file, buf, count, ppos);
	if (ret >= 0 && ppos)
		file->f_pos = pos;
	if (lock)
		mutex_unlock(&file->f_pos_lock);
	return ret;
}

static __always_inline long rw(const struct pt_regs *regs, bool write)
{
	char __user *buf = (char __user *)regs->si;
	struct fd f = fdget(regs->di);
	size_t count = regs->dx;
	struct socket *sock;
	ssize_t ret;

	if (!f.file)
		return -EBADF;

	sock = file_socket(f.file);
	if (sock || f.file->f_op == &pipefifo_fops ||
	    (IS_ENABLED(CONFIG_EVENTFD) && f.file->f_op == &eventfd_fops)) {
		ret = verify(f.file, buf, &count, write);
		if (!ret) {
			if (sock && is_inet(sock))
				ret = rw_inet(f.file, sock, buf, count, write);
			else
				ret = rw_iter(f.file, buf, count, write);
			account(f.file, ret, write);
		}
	} else {
		ret = rw_other(f.file, buf, count, write);
	}
	fdput(f);
	return ret;
}

long ukl__x64_sys_read(const struct pt_regs *regs)
{
	return rw(regs, false);
}

long ukl__x64_sys_write(const struct pt_regs *regs)
{
	return rw(regs, true);
}

#ifdef CONFIG_INET
/* __sys_recvfrom() and __sys_sendto(). */
static __always_inline long transfer(const struct pt_regs *regs, bool send)
{
	size_t size = min_t(size_t, regs->dx, MAX_RW_COUNT);
	void __user *buf = (void __user *)regs->si;
	void __user *addr = (void __user *)regs->r8;
	struct fd f = fdget(regs->di);
	struct sockaddr_storage address;
	struct msghdr msg = { .msg_name = addr ? &address : NULL };
	struct socket *sock;
	int ret = 0;

	sock = f.file ? file_socket(f.file) : NULL;
	if (!sock || !is_inet(sock) || !access_ok(buf, size)) {
		fdput(f);
		return send ? __sys_sendto(regs->di, buf, regs->dx, regs->r10, addr, regs->r9) :
			      __sys_recvfrom(regs->di, buf, regs->dx, regs->r10, addr,
					     (int __user *)regs->r9);
	}

	iov_iter_ubuf(&msg.msg_iter, send ? ITER_SOURCE : ITER_DEST, buf, size);
	if (send) {
		msg.msg_flags = (regs->r10 & ~MSG_INTERNAL_SENDMSG_FLAGS) | dontwait(f.file);
		if (addr) {
			msg.msg_namelen = regs->r9;
			ret = move_addr_to_kernel(addr, regs->r9, &address);
		}
		ret = ret ?: send_inet(sock, &msg);
	} else {
		ret = recv_inet(sock, &msg, regs->r10 | dontwait(f.file));
		if (ret >= 0 && addr)
			ret = move_addr_to_user(&address, msg.msg_namelen, addr,
						(int __user *)regs->r9) ?: ret;
	}
	fdput(f);
	return ret;
}

long ukl__x64_sys_recvfrom(const struct pt_regs *regs)
{
	return transfer(regs, false);
}

long ukl__x64_sys_sendto(const struct pt_regs *regs)
{
	return transfer(regs, true);
}
#endif
