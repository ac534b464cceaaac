package users

import (
	"errors"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const getUser = "gatehouse.users.v1.UserService/GetUser"

// connect undoes what an earlier test changed, and returns a client with a token of alice.
func connect(t *testing.T) *Client {
	t.Helper()
	bed.reset(t)
	client, err := NewClient(bed.Targets["users"], bed.CACertificate, "gatehouse.protoset", bed.token(t, map[string]any{"user": "alice"}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestClientRetriesWhileTheServiceIsUnavailable(t *testing.T) {
	client := connect(t)
	bed.addFault(t, map[string]any{"target": getUser, "code": "UNAVAILABLE", "times": 2})
	if email, err := client.Email(t.Context(), bed.Users["bob"]); err != nil || email != "bob@example.test" {
		t.Fatal(email, err)
	}
	if seen := bed.codes(t, "GetUser"); !slices.Equal(seen, []string{"UNAVAILABLE", "UNAVAILABLE", "OK"}) {
		t.Fatal(seen)
	}
}

func TestClientGivesUpAfterThreeAttempts(t *testing.T) {
	client := connect(t)
	bed.addFault(t, map[string]any{"target": getUser, "code": "UNAVAILABLE"})
	if _, err := client.Email(t.Context(), bed.Users["bob"]); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if seen := bed.codes(t, "GetUser"); len(seen) != 3 {
		t.Fatal(seen)
	}
}

func TestClientAsksForALoginWhenItsTokenExpires(t *testing.T) {
	client := connect(t)
	if _, err := client.Email(t.Context(), bed.Users["bob"]); err != nil {
		t.Fatal(err)
	}
	bed.advanceClock(t, 24*60*60)
	if _, err := client.Email(t.Context(), bed.Users["bob"]); !errors.Is(err, ErrLoginRequired) {
		t.Fatal(err)
	}
}
