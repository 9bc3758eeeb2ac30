package alert

import "testing"

// S28: signatures are those of the specification's examples.
func TestS28_Examples(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ secret, id, timestamp, body, want string }{
		{"whsec_plJ3nmyCDGBKInavdOK15jsl", "msg_loFOjxBNrRLzqYUf", "1731705121", `{"event_type":"ping","data":{"success":true}}`, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="},
		{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	} {
		if got, err := sign(tt.secret, tt.id, tt.timestamp, []byte(tt.body)); err != nil || got != tt.want {
			t.Errorf("sign(%s, %s) = %s, %v, want %s", tt.id, tt.timestamp, got, err, tt.want)
		}
	}
	for _, secret := range []string{"", "whsec_", "plJ3nmyCDGBKInavdOK15jsl", "whsec_!"} {
		if got, err := sign(secret, "msg_1", "1", nil); err == nil {
			t.Errorf("sign(secret %q) = %s, want an error", secret, got)
		}
	}
}
