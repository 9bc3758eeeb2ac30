package blob

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/minio/minio-go/v7"
)

// Diagnose tries whether the bucket can be used, within a few seconds, and says in
// words what does not fit and which setting to look at.
func (s *Store) Diagnose(ctx context.Context) error {
	err := s.Ping(ctx)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// A HEAD is refused without a reason, a list with one.
	call, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	for o := range s.core.ListObjectsIter(call, s.cfg.Bucket, minio.ListObjectsOptions{MaxKeys: 1}) {
		if o.Err != nil {
			err = o.Err
		}
		break
	}
	if answer, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return s.refused(answer)
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		return fmt.Errorf("there is no host %s; see NOFX_S3_ENDPOINT", dns.Name)
	}
	return fmt.Errorf("no S3 service answers at %s; see NOFX_S3_ENDPOINT", s.cfg.Endpoint)
}

// plainly returns without addresses what kept a bucket from being found.
func plainly(err error) string {
	answer, answered := errors.AsType[minio.ErrorResponse](err)
	dns, unknown := errors.AsType[*net.DNSError](err)
	switch {
	case answered && answer.Code == minio.NoSuchBucket:
		return "there is no such bucket; see NOFX_S3_BUCKET"
	case answered && answer.StatusCode == http.StatusForbidden:
		return "it refuses the access key, or access to the bucket; see NOFX_S3_ACCESS_KEY, NOFX_S3_SECRET_KEY and NOFX_S3_BUCKET"
	case answered && answer.StatusCode > 0:
		return fmt.Sprintf("it answers with the status %d", answer.StatusCode)
	case unknown && dns.IsNotFound:
		return "there is no such host; see NOFX_S3_ENDPOINT"
	case errors.Is(err, context.DeadlineExceeded):
		return "it does not answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing answers there; see NOFX_S3_ENDPOINT"
	}
	return "the connection failed; see NOFX_S3_ENDPOINT"
}

// refused returns the error that an answer means.
func (s *Store) refused(answer minio.ErrorResponse) error {
	switch answer.Code {
	case minio.NoSuchBucket:
		return fmt.Errorf("there is no bucket %s at %s; make it, or name another in NOFX_S3_BUCKET", s.cfg.Bucket, s.cfg.Endpoint)
	case "InvalidAccessKeyId", "XAdminUserNotFound":
		return fmt.Errorf("the S3 service at %s does not know the access key; see NOFX_S3_ACCESS_KEY", s.cfg.Endpoint)
	case "SignatureDoesNotMatch":
		return errors.New("the secret key does not belong to the access key; see NOFX_S3_SECRET_KEY")
	case "RequestTimeTooSkewed":
		return fmt.Errorf("the clocks of this machine and of the S3 service at %s differ too much", s.cfg.Endpoint)
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException", "InvalidRegion":
		region := ""
		if answer.Region != "" && answer.Region != s.cfg.Region {
			region = ", which is " + answer.Region
		}
		return fmt.Errorf("the bucket %s is not in the region %s; set NOFX_S3_REGION to the region of the service%s", s.cfg.Bucket, s.cfg.Region, region)
	case minio.AccessDenied:
		return fmt.Errorf("the access key may not use the bucket %s; allow it to list, read, write and delete there, or see NOFX_S3_BUCKET", s.cfg.Bucket)
	}
	return fmt.Errorf("the S3 service at %s refuses the bucket %s: %s", s.cfg.Endpoint, s.cfg.Bucket, strings.TrimSuffix(answer.Message, "."))
}
